package auth_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
)

func ExampleVerifier_Verify() {
	issuer, err := devissuer.New(devissuer.Options{ClientID: "web"})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(issuer)
	defer server.Close()
	issuer.SetURL(server.URL)

	v, err := auth.NewVerifier(auth.Options{
		Issuer: issuer.Issuer(), ClientIDs: []string{"web"}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()

	token, err := issuer.ID("acme-corp", "ann", auth.RoleEditor, time.Hour)
	if err != nil {
		fmt.Println(err)
		return
	}
	bearer, err := auth.BearerToken([]string{"Bearer " + token})
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := v.Verify(context.Background(), bearer)
	fmt.Println(p.Tenant, p.Subject, p.Role, err)

	_, err = v.Verify(context.Background(), bearer[:len(bearer)-4]+"AAAA")
	fmt.Println(err)
	// Output:
	// acme-corp ann editor <nil>
	// auth.Verify: the token's signature is wrong (get a new token from the issuer)
}
