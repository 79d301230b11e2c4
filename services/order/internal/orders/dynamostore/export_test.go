package dynamostore

import "github.com/tagstore/tagstore/services/order/internal/orders"

// TableOf is the name of a store's table.
func TableOf(s orders.Store) string { return s.(*Store).table }
