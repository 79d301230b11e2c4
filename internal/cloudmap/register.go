package cloudmap

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
)

// pollInterval is the time between two looks at an operation. They end with
// the caller's context.
const pollInterval = 200 * time.Millisecond

// Register adds a replica, or changes the address of one, and returns when
// Cloud Map has done so. It is for replicas that nobody else registers, as ECS
// does for its tasks. The replica's address is an IP address and a port.
func (r *Registry) Register(ctx context.Context, replica fanout.Replica) error {
	const op = "cloudmap.Register"
	at, err := netip.ParseAddrPort(replica.Address)
	if err != nil || replica.ID == "" || at.Port() == 0 || at.Addr().IsUnspecified() {
		return &config.Error{
			Op: op, Code: config.InvalidArgument, Message: "the replica has no id, or no address that others could reach",
			Hint: "an address is an IP address and a port, such as 10.0.0.7:7070",
		}
	}
	service, err := r.serviceID(ctx)
	if err != nil {
		return r.failed(op, err)
	}
	attributes := map[string]string{attributePort: strconv.Itoa(int(at.Port()))}
	if at.Addr().Unmap().Is4() {
		attributes[attributeIPv4] = at.Addr().Unmap().String()
	} else {
		attributes[attributeIPv6] = at.Addr().String()
	}
	out, err := r.client.RegisterInstance(ctx, &servicediscovery.RegisterInstanceInput{
		ServiceId: &service, InstanceId: &replica.ID, Attributes: attributes, CreatorRequestId: aws.String(rand.Text()),
	})
	if err != nil {
		return r.failed(op, err)
	}
	return r.failedOrNil(op, r.await(ctx, aws.ToString(out.OperationId)))
}

// Deregister takes a replica out and returns when Cloud Map has done so. One
// that is not registered is NotFound.
func (r *Registry) Deregister(ctx context.Context, id string) error {
	const op = "cloudmap.Deregister"
	service, err := r.serviceID(ctx)
	if err != nil {
		return r.failed(op, err)
	}
	out, err := r.client.DeregisterInstance(ctx, &servicediscovery.DeregisterInstanceInput{ServiceId: &service, InstanceId: &id})
	if err != nil {
		return r.failed(op, err)
	}
	return r.failedOrNil(op, r.await(ctx, aws.ToString(out.OperationId)))
}

func (r *Registry) failedOrNil(op string, err error) error {
	if err == nil {
		return nil
	}
	return r.failed(op, err)
}

// await returns when an operation has ended.
func (r *Registry) await(ctx context.Context, operation string) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		out, err := r.client.GetOperation(ctx, &servicediscovery.GetOperationInput{OperationId: &operation})
		if err != nil {
			return err
		}
		switch out.Operation.Status {
		case types.OperationStatusSuccess:
			return nil
		case types.OperationStatusFail:
			// Its text may hold anything; the code is one word.
			return config.Errorf(config.Unavailable, "the operation of Cloud Map failed: %s", aws.ToString(out.Operation.ErrorCode))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serviceID returns the id of the service: only discovering takes names.
func (r *Registry) serviceID(ctx context.Context) (string, error) {
	namespace, err := r.namespaceID(ctx)
	if err != nil {
		return "", err
	}
	pages := servicediscovery.NewListServicesPaginator(r.client, &servicediscovery.ListServicesInput{Filters: []types.ServiceFilter{
		{Name: types.ServiceFilterNameNamespaceId, Values: []string{namespace}, Condition: types.FilterConditionEq},
	}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", err
		}
		for _, s := range page.Services {
			if aws.ToString(s.Name) != r.o.Service {
				continue
			}
			// Not every answer keeps to the filter: emulators leave it out, and
			// to register in the service of another namespace would be silent.
			found, err := r.client.GetService(ctx, &servicediscovery.GetServiceInput{Id: s.Id})
			var gone *types.ServiceNotFound
			if errors.As(err, &gone) {
				continue // it was deleted since it was listed: it may be another of the same name
			}
			if err != nil {
				return "", err
			}
			if aws.ToString(found.Service.NamespaceId) == namespace {
				return aws.ToString(s.Id), nil
			}
		}
	}
	return "", r.missing()
}

func (r *Registry) namespaceID(ctx context.Context) (string, error) {
	pages := servicediscovery.NewListNamespacesPaginator(r.client, &servicediscovery.ListNamespacesInput{Filters: []types.NamespaceFilter{
		{Name: types.NamespaceFilterNameName, Values: []string{r.o.Namespace}, Condition: types.FilterConditionEq},
	}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", err
		}
		for _, n := range page.Namespaces {
			if aws.ToString(n.Name) == r.o.Namespace {
				return aws.ToString(n.Id), nil
			}
		}
	}
	return "", r.missing()
}

func (r *Registry) missing() error {
	e := &config.Error{}
	r.refused(e, "ServiceNotFound")
	return e
}
