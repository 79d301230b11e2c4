package app_test

import (
	"net/http"
	"testing"

	"github.com/tagstore/tagstore/core/auth"
)

// Where the configuration can be watched, orders are decided from memory: each
// tenant's by its own values, and by changed ones once they have been told.
func TestConfigurationIsHeldAndToldOfChanges(t *testing.T) {
	s := start(t)
	s.config.watchable()
	acme, globex := s.token("acme-corp", auth.RoleEditor), s.token("globex-inc", auth.RoleEditor)
	s.wait("both are decided from memory", func() bool {
		before := s.config.callCount()
		a := parse[order](t, s.do("POST", "/v1/orders", acme, body(2, 1250)), http.StatusCreated)
		g := parse[order](t, s.do("POST", "/v1/orders", globex, body(3, 100)), http.StatusCreated)
		if a.PaymentGateway.Name != "Stripe" || a.Currency != "USD" || a.DecidedBy[1].Layer != "service" {
			t.Fatalf("acme-corp's order is %+v", a)
		}
		if g.PaymentGateway.Name != "PayPal" || g.Currency != "EUR" || g.DecidedBy[2].Layer != "shared" {
			t.Fatalf("globex-inc's order is %+v", g)
		}
		return s.config.callCount() == before
	})
	s.config.put("acme-corp", "order", "tenant_config_order-limits", `{"minAmount":600,"maxAmount":1000000,"maxItems":50}`)
	s.wait("the change decides", func() bool {
		r := s.do("POST", "/v1/orders", acme, body(1, 599))
		if r.status == http.StatusCreated {
			return false
		}
		p := refusal(t, r, http.StatusUnprocessableEntity, "order-refused")
		return p.Rule == "min-amount" && p.Version == 2
	})
	parse[order](t, s.do("POST", "/v1/orders", globex, body(1, 599)), http.StatusCreated)
	// A value that is gone is missing, not remembered.
	s.config.put("acme-corp", "", "param_config_currency", "")
	s.config.put("_shared", "", "param_config_currency", "")
	s.wait("the value is missing", func() bool {
		r := s.do("POST", "/v1/orders", acme, body(1, 600))
		if r.status == http.StatusCreated && parse[order](t, r, http.StatusCreated).Currency == "EUR" {
			return false // between the two changes
		}
		return r.status == http.StatusUnprocessableEntity && refusal(t, r, r.status, "configuration-missing").Key == "param_config_currency"
	})
}

// While the configuration service is away no order is decided by what is held,
// unless the operator says for how long it may be.
func TestHeldConfigurationWhileTheServiceIsAway(t *testing.T) {
	for name, tc := range map[string]struct {
		extra []string
		want  int
	}{
		"by default": {nil, http.StatusServiceUnavailable},
		"as allowed": {[]string{"ORDER_CONFIG_STALE_IF_ERROR=1m"}, http.StatusCreated},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, tc.extra...)
			s.config.watchable()
			token := s.token("acme-corp", auth.RoleEditor)
			s.wait("it is decided from memory", func() bool {
				before := s.config.callCount()
				parse[order](t, s.do("POST", "/v1/orders", token, body(1, 500)), http.StatusCreated)
				return s.config.callCount() == before
			})
			address := s.target
			s.grpc.Stop()
			s.wait("the watch is broken", func() bool { return s.do("POST", "/v1/orders", token, body(1, 500)).status == tc.want })
			for range 3 {
				if r := s.do("POST", "/v1/orders", token, body(1, 500)); r.status != tc.want {
					t.Errorf("answered %d: %s", r.status, r.body)
				}
			}
			s.serveConfig(address)
			s.wait("an order after the restart", func() bool { return s.do("POST", "/v1/orders", token, body(1, 500)).status == http.StatusCreated })
		})
	}
}
