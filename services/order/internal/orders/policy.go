package orders

import (
	"fmt"
	"net/url"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/strictjson"
)

// The keys that decide an order, all read as service "order".
var (
	GatewayKey  = mustKey("tenant_config_payment-gateway")
	LimitsKey   = mustKey("tenant_config_order-limits")
	CurrencyKey = mustKey("param_config_currency")
	service     = mustService("order")
)

// Keys are the keys that decide an order.
func Keys() []config.Key { return []config.Key{GatewayKey, LimitsKey, CurrencyKey} }

// Prefixes are what to watch: each key by itself, since a tenant may have a
// thousand others that start alike.
func Prefixes() []string {
	prefixes := make([]string, len(Keys()))
	for i, key := range Keys() {
		prefixes[i] = key.String()
	}
	return prefixes
}

// Gateway is the payment provider that an order is to be paid by. Nothing here
// calls it.
type Gateway struct {
	Name        string
	Endpoint    string // absolute https URL, or "" if none is configured
	RetryPolicy string
}

// Currency is the unit of an order's amounts: an ISO 4217 code and the number
// of decimal digits of its minor unit.
type Currency struct {
	Code     string
	Exponent int64
}

// limits are what a tenant allows, each bound included.
type limits struct {
	minAmount, maxAmount int64 // minor units
	maxItems             int64 // units, over all lines
}

// policy is what one tenant's configuration says.
type policy struct {
	gateway   *Gateway // nil if no provider is enabled
	limits    limits
	currency  Currency
	decisions []Decision // as Keys
}

// Refusal says which rule an order does not meet, and which value made the
// rule.
type Refusal struct {
	Rule    Rule
	Detail  string // for the buyer
	Key     config.Key
	Version uint64 // 0 where there is no such value, or its store does not count
}

// Error returns the rule and the detail.
func (r *Refusal) Error() string { return string(r.Rule) + ": " + r.Detail }

// Rule names one rule.
type Rule string

// The rules, in the order in which they are checked: the first that is not met
// is the one that refuses.
const (
	RuleConfigured Rule = "configured" // every key of Keys has a value
	RuleCurrency   Rule = "currency"
	RuleMaxItems   Rule = "max-items"
	RuleMinAmount  Rule = "min-amount"
	RuleMaxAmount  Rule = "max-amount"
	RuleGateway    Rule = "payment-gateway" // a provider is enabled
)

// check returns the *Refusal of the first rule that d does not meet.
func (p policy) check(d Draft) error {
	refuse := func(rule Rule, by int, format string, args ...any) error {
		decision := p.decisions[by]
		return &Refusal{Rule: rule, Detail: fmt.Sprintf(format, args...), Key: decision.Key, Version: decision.Version}
	}
	const gateway, limits, currency = 0, 1, 2
	switch {
	case d.currency != "" && d.currency != p.currency.Code:
		return refuse(RuleCurrency, currency, "orders are taken in %s only", p.currency.Code)
	case d.units > p.limits.maxItems:
		return refuse(RuleMaxItems, limits, "the order has %d units, the most is %d", d.units, p.limits.maxItems)
	case d.total < p.limits.minAmount:
		return refuse(RuleMinAmount, limits, "the total is %d, the least is %d (minor units)", d.total, p.limits.minAmount)
	case d.total > p.limits.maxAmount:
		return refuse(RuleMaxAmount, limits, "the total is %d, the most is %d (minor units)", d.total, p.limits.maxAmount)
	case p.gateway == nil:
		return refuse(RuleGateway, gateway, "no payment provider is enabled")
	}
	return nil
}

// newPolicy reads the values of Keys, in that order.
func newPolicy(entries []client.Entry) (policy, error) {
	var p policy
	for i, read := range []func([]byte) error{p.readGateway, p.readLimits, p.readCurrency} {
		e := entries[i]
		if err := read(e.Value); err != nil {
			return policy{}, &ConfigUnavailable{Key: e.Key, Version: e.Version, Err: &config.Error{
				Op: "orders.Place", Key: e.Key, Code: config.DataLoss,
				Message: fmt.Sprintf("version %d does not have the shape that orders need: %v", e.Version, err),
				Hint:    "put a value as the order service's README describes it, or roll back",
			}}
		}
		p.decisions = append(p.decisions, Decision{Key: e.Key, Layer: layerOf(e), Version: e.Version})
	}
	return p, nil
}

func layerOf(e client.Entry) Layer {
	switch {
	case e.Shared:
		return LayerShared
	case !e.Service.IsZero():
		return LayerService
	default:
		return LayerTenant
	}
}

// maxProviders and maxText bound what an order takes over from a value.
const (
	maxProviders = 100
	maxText      = 256
)

// readGateway takes the first enabled provider of
//
//	{"providers": [{"name": "Stripe", "enabled": true, "apiEndpoint": "https://…", "retryPolicy": "exponential"}]}
//
// where only name is required and enabled absent is true. Other members are
// left to other readers.
func (p *policy) readGateway(value []byte) error {
	return strictjson.Parse(value, func(r *strictjson.Reader) error {
		return r.OpenObject(strictjson.Field{Name: "providers", Required: true, Read: func() error {
			return r.Array(maxProviders, func() error {
				g, enabled, err := readProvider(r)
				if enabled && p.gateway == nil {
					p.gateway = &g
				}
				return err
			})
		}})
	})
}

func readProvider(r *strictjson.Reader) (g Gateway, enabled bool, err error) {
	enabled = true
	text := func(into *string) func() error {
		return func() error {
			if err := r.String(into); err != nil {
				return err
			}
			if *into == "" || len(*into) > maxText {
				return r.Errorf("must be 1 to %d bytes", maxText)
			}
			return nil
		}
	}
	err = r.OpenObject(
		strictjson.Field{Name: "name", Required: true, Read: text(&g.Name)},
		strictjson.Field{Name: "enabled", Read: func() error { return r.Bool(&enabled) }},
		strictjson.Field{Name: "retryPolicy", Read: text(&g.RetryPolicy)},
		strictjson.Field{Name: "apiEndpoint", Read: func() error {
			if err := text(&g.Endpoint)(); err != nil {
				return err
			}
			if u, err := url.Parse(g.Endpoint); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
				return r.Errorf("must be an absolute https URL without a user")
			}
			return nil
		}},
	)
	return g, enabled, err
}

// readLimits takes {"minAmount": 500, "maxAmount": 1000000, "maxItems": 50}:
// amounts in minor units, items in units over all lines, all three required.
// Other members are left to other readers.
func (p *policy) readLimits(value []byte) error {
	return strictjson.Parse(value, func(r *strictjson.Reader) error {
		l := &p.limits
		bounded := func(into *int64, least int64) func() error {
			return func() error {
				if err := r.Int(into); err != nil {
					return err
				}
				if *into < least || *into > MaxAmount {
					return r.Errorf("must be from %d to %d", least, MaxAmount)
				}
				return nil
			}
		}
		if err := r.OpenObject(
			strictjson.Field{Name: "minAmount", Required: true, Read: bounded(&l.minAmount, 0)},
			strictjson.Field{Name: "maxAmount", Required: true, Read: bounded(&l.maxAmount, 0)},
			strictjson.Field{Name: "maxItems", Required: true, Read: bounded(&l.maxItems, 1)},
		); err != nil {
			return err
		}
		if l.minAmount > l.maxAmount {
			return r.Errorf("has a minAmount above its maxAmount")
		}
		return nil
	})
}

// readCurrency takes {"code": "USD", "exponent": 2}, where other members are
// left to other readers, or just "USD", where the exponent is ISO 4217's.
func (p *policy) readCurrency(value []byte) error {
	return strictjson.Parse(value, func(r *strictjson.Reader) error {
		c := &p.currency
		code := func() error {
			if err := r.String(&c.Code); err != nil {
				return err
			}
			if !validCurrency(c.Code) {
				return r.Errorf("must be 3 capital letters (ISO 4217)")
			}
			return nil
		}
		if r.AtString() {
			err := code()
			c.Exponent = exponentOf(c.Code)
			return err
		}
		return r.OpenObject(
			strictjson.Field{Name: "code", Required: true, Read: code},
			strictjson.Field{Name: "exponent", Required: true, Read: func() error {
				if err := r.Int(&c.Exponent); err != nil {
					return err
				}
				if c.Exponent < 0 || c.Exponent > maxExponent {
					return r.Errorf("must be from 0 to %d", maxExponent)
				}
				return nil
			}},
		)
	})
}

// maxExponent is the largest that ISO 4217 has.
const maxExponent = 4

// exponentOf returns the exponent of a code in ISO 4217's list one: 2 but for
// those that are named here.
func exponentOf(code string) int64 {
	switch code {
	case "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF":
		return 0
	case "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND":
		return 3
	case "CLF", "UYW":
		return 4
	default:
		return 2
	}
}

func validCurrency(s string) bool {
	if len(s) != 3 {
		return false
	}
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			return false
		}
	}
	return true
}

func mustKey(s string) config.Key {
	k, err := config.ParseKey(s)
	if err != nil {
		panic(err)
	}
	return k
}

func mustService(s string) config.Service {
	v, err := config.ParseService(s)
	if err != nil {
		panic(err)
	}
	return v
}
