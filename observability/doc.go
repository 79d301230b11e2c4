// Package observability holds what looks at tagstore from outside: rules for
// Prometheus and a dashboard for Grafana. There is no code in it but tests, which
// start the system, and hold what these files name against what it emits.
package observability
