// Package v20170312 stands in for a cloud SDK that Flannel's tencent-vpc backend imports.
// Every call answers that the backend was not built.
package v20170312

import "errors"

var errNotBuilt = errors.New("this flanneld was built without the tencent-vpc backend: use vxlan, host-gw or wireguard")

// Filter selects route tables.
type Filter struct {
	Name   *string
	Values []*string
}

// Route is one route of a table.
type Route struct {
	RouteId              *uint64
	DestinationCidrBlock *string
	GatewayType          *string
	GatewayId            *string
	RouteType            *string
	Enabled              *bool
}

// RouteTable is one table.
type RouteTable struct {
	RouteTableId *string
	RouteSet     []*Route
}

// DescribeRouteTablesRequest asks for route tables.
type DescribeRouteTablesRequest struct{ Filters []*Filter }

// DescribeRouteTablesResponse answers it.
type DescribeRouteTablesResponse struct{ Response *RouteTables }

// RouteTables is the body of the answer.
type RouteTables struct{ RouteTableSet []*RouteTable }

// RoutesRequest creates or deletes routes of one table.
type RoutesRequest struct {
	RouteTableId *string
	Routes       []*Route
}

// RoutesResponse answers it.
type RoutesResponse struct{}

// Client would call the cloud.
type Client struct{}

// NewClientWithSecretId always fails.
func NewClientWithSecretId(_, _, _ string) (*Client, error) { return &Client{}, errNotBuilt }

// NewDescribeRouteTablesRequest returns an empty request.
func NewDescribeRouteTablesRequest() *DescribeRouteTablesRequest {
	return &DescribeRouteTablesRequest{}
}

// NewCreateRoutesRequest returns an empty request.
func NewCreateRoutesRequest() *RoutesRequest { return &RoutesRequest{} }

// NewDeleteRoutesRequest returns an empty request.
func NewDeleteRoutesRequest() *RoutesRequest { return &RoutesRequest{} }

// DescribeRouteTables always fails.
func (c *Client) DescribeRouteTables(*DescribeRouteTablesRequest) (*DescribeRouteTablesResponse, error) {
	return nil, errNotBuilt
}

// CreateRoutes always fails.
func (c *Client) CreateRoutes(*RoutesRequest) (*RoutesResponse, error) { return nil, errNotBuilt }

// DeleteRoutes always fails.
func (c *Client) DeleteRoutes(*RoutesRequest) (*RoutesResponse, error) { return nil, errNotBuilt }
