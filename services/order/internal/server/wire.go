package server

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/tagstore/tagstore/services/order/internal/orders"
	"github.com/tagstore/tagstore/services/order/internal/strictjson"
)

// maxBody is the longest request body in bytes.
const maxBody = 64 << 10

// readDraft reads the body of a request to place an order.
func readDraft(w http.ResponseWriter, r *http.Request) (orders.Draft, error) {
	if err := checkMediaType(r.Header); err != nil {
		return orders.Draft{}, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			return orders.Draft{}, newProblem(http.StatusRequestEntityTooLarge, typeTooLarge, "The body is too large", "The body has more than 65536 bytes.")
		}
		p := invalidRequest("The body could not be read.")
		p.cause = err
		return orders.Draft{}, p
	}
	return decodeDraft(body)
}

func checkMediaType(h http.Header) error {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	charset, hasCharset := params["charset"]
	if err != nil || kind != "application/json" || len(h.Values("Content-Type")) > 1 ||
		(hasCharset && !strings.EqualFold(charset, "utf-8")) {
		return newProblem(http.StatusUnsupportedMediaType, typeMediaType, "The media type is not supported", "Send Content-Type: application/json.")
	}
	if h.Get("Content-Encoding") != "" {
		return newProblem(http.StatusUnsupportedMediaType, typeMediaType, "The media type is not supported", "Send the body without Content-Encoding.")
	}
	return nil
}

// decodeDraft reads
//
//	{"items": [{"sku": "A-1", "quantity": 1, "unitPrice": 1250}], "currency": "USD", "reference": "…"}
//
// and nothing else; currency and reference may be left out.
func decodeDraft(body []byte) (orders.Draft, error) {
	var (
		lines               []orders.Line
		currency, reference string
	)
	err := strictjson.Parse(body, func(r *strictjson.Reader) error {
		return r.Object(
			strictjson.Field{Name: "items", Required: true, Read: func() error {
				return r.Array(orders.MaxLines, func() error {
					var l orders.Line
					err := r.Object(
						strictjson.Field{Name: "sku", Required: true, Read: func() error { return r.String(&l.SKU) }},
						strictjson.Field{Name: "quantity", Required: true, Read: func() error { return r.Int(&l.Quantity) }},
						strictjson.Field{Name: "unitPrice", Required: true, Read: func() error { return r.Int(&l.UnitPrice) }},
					)
					lines = append(lines, l)
					return err
				})
			}},
			strictjson.Field{Name: "currency", Read: func() error {
				if err := r.String(&currency); err != nil {
					return err
				}
				if currency == "" {
					return r.Errorf("must not be empty")
				}
				return nil
			}},
			strictjson.Field{Name: "reference", Read: func() error { return r.String(&reference) }},
		)
	})
	if err != nil {
		// strictjson's errors repeat no values.
		return orders.Draft{}, invalidRequest(err.Error() + ".")
	}
	return orders.NewDraft(lines, currency, reference)
}

// orderJSON is an order as clients see it.
type orderJSON struct {
	ID             string         `json:"id"`
	CreatedAt      time.Time      `json:"createdAt"`
	CreatedBy      string         `json:"createdBy"`
	Items          []itemJSON     `json:"items"`
	Total          int64          `json:"total"`
	Currency       string         `json:"currency"`
	Exponent       int64          `json:"currencyExponent"`
	Reference      string         `json:"reference,omitempty"`
	PaymentGateway gatewayJSON    `json:"paymentGateway"`
	DecidedBy      []decisionJSON `json:"decidedBy"`
}

type itemJSON struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unitPrice"`
	Amount    int64  `json:"amount"`
}

type gatewayJSON struct {
	Name        string `json:"name"`
	APIEndpoint string `json:"apiEndpoint,omitempty"`
	RetryPolicy string `json:"retryPolicy,omitempty"`
}

type decisionJSON struct {
	Key     string       `json:"key"`
	Layer   orders.Layer `json:"layer"`
	Version uint64       `json:"version"`
}

// pageJSON is one page of orders. NextCursor is absent on the last.
type pageJSON struct {
	Orders     []orderJSON `json:"orders"`
	NextCursor string      `json:"nextCursor,omitempty"`
}

func toJSON(o orders.Order) orderJSON {
	out := orderJSON{
		ID: o.ID.String(), CreatedAt: o.CreatedAt, CreatedBy: o.CreatedBy, Items: []itemJSON{}, Total: o.Total,
		Currency: o.Currency.Code, Exponent: o.Currency.Exponent, Reference: o.Reference,
		PaymentGateway: gatewayJSON{Name: o.Gateway.Name, APIEndpoint: o.Gateway.Endpoint, RetryPolicy: o.Gateway.RetryPolicy},
		DecidedBy:      []decisionJSON{},
	}
	for _, l := range o.Lines {
		out.Items = append(out.Items, itemJSON{SKU: l.SKU, Quantity: l.Quantity, UnitPrice: l.UnitPrice, Amount: l.Amount()})
	}
	for _, d := range o.Decisions {
		out.DecidedBy = append(out.DecidedBy, decisionJSON{Key: d.Key.String(), Layer: d.Layer, Version: d.Version})
	}
	return out
}
