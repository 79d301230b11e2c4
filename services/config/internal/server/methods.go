package server

import (
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	"github.com/tagstore/tagstore/core/auth"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/access"
)

// methods returns who may call what. Every RPC that the server registers has a
// row; New fails otherwise. The machine that announces changes may do that and
// nothing else, and nobody else may: of two roles neither contains the other. An
// operator sees no tenant's values, and a tenant's admin, who belongs to one
// tenant, changes nothing for all of them.
func methods(dev bool) access.Table {
	read := access.Only(auth.RoleReader, auth.RoleEditor, auth.RoleAdmin)
	write := access.Only(auth.RoleEditor, auth.RoleAdmin)
	see := access.Only(auth.RoleAdmin, auth.RoleOperator)
	table := access.Table{
		tagstorev1.ConfigService_Get_FullMethodName:      read,
		tagstorev1.ConfigService_BatchGet_FullMethodName: read,
		tagstorev1.ConfigService_List_FullMethodName:     read,
		tagstorev1.ConfigService_History_FullMethodName:  read,
		tagstorev1.ConfigService_Watch_FullMethodName:    read,
		tagstorev1.ConfigService_Session_FullMethodName:  read, // each call in it by its own row
		tagstorev1.ConfigService_Put_FullMethodName:      write,
		tagstorev1.ConfigService_Delete_FullMethodName:   write,
		tagstorev1.ConfigService_Restore_FullMethodName:  write,
		tagstorev1.ConfigService_Rollback_FullMethodName: write,

		tagstorev1.AdminService_ListBackends_FullMethodName: see,
		tagstorev1.AdminService_Refresh_FullMethodName:      access.Only(auth.RoleRefresher),
		// A tenant's admin must not: it concerns all tenants.
		tagstorev1.AdminService_ReloadManifest_FullMethodName: access.Only(auth.RoleOperator),

		// Probes come without a token and learn the names of the prefixes and
		// whether they serve.
		healthv1.Health_Check_FullMethodName: access.Open(),
		healthv1.Health_List_FullMethodName:  access.Open(),
		healthv1.Health_Watch_FullMethodName: access.Open(),
	}
	if dev {
		table[reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName] = access.Open()
		table[reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName] = access.Open()
	}
	return table
}
