// Package cloudmap finds the replicas of the configuration service in AWS Cloud
// Map, where Amazon ECS registers the tasks of a service.
//
// An instance is a replica: its id is the instance's, its address the
// attributes AWS_INSTANCE_IPV4, or else AWS_INSTANCE_IPV6, and
// AWS_INSTANCE_PORT. Only instances that Cloud Map calls healthy are found; a
// Cloud Map service without a health check calls all of them so.
//
// Region, credentials and endpoints come from where the AWS SDK looks for them.
// With an endpoint of one's own (AWS_ENDPOINT_URL or
// AWS_ENDPOINT_URL_SERVICEDISCOVERY), which may be an IP address, requests go
// to exactly that host: the SDK would put "data-" in front of it to discover.
// Discover needs servicediscovery:DiscoverInstances; Register and Deregister
// need ListNamespaces, ListServices, GetService, RegisterInstance,
// DeregisterInstance and GetOperation.
//
// Errors are *config.Error. ResourceExhausted means that AWS throttles,
// FailedPrecondition that something has to be set up first, and Unavailable
// that a retry may help.
package cloudmap
