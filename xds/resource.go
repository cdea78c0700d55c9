package xds

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// The resource types that a workload can get.
const (
	ClusterType  = resource.ClusterType
	EndpointType = resource.EndpointType
	ListenerType = resource.ListenerType
	RouteType    = resource.RouteType
	SecretType   = resource.SecretType
	// TableType is the workload's authorization table: for its agent only, never for Envoy.
	TableType = resource.APITypePrefix + "ringfence.agent.v1alpha1.Table"
)

// versionBytes of a SHA-256 are a version: enough that nobody finds two resources of one version.
const versionBytes = 16

// Resource is one finished xDS resource: serialised once, never changed. The zero value is no resource.
type Resource struct {
	typeURL, name, version string
	value                  []byte
}

// NewResource freezes a serialised resource. The caller gives value away. The version is a hash of type, name and value.
func NewResource(typeURL, name string, value []byte) Resource {
	return Resource{typeURL: typeURL, name: name, version: hash([]byte(typeURL), []byte(name), value), value: value}
}

// TypeURL is the resource's type.
func (r Resource) TypeURL() string { return r.typeURL }

// Name is unique within the type.
func (r Resource) Name() string { return r.name }

// Version changes when and only when the peer has to get the resource again.
func (r Resource) Version() string { return r.version }

// Value is the serialised message; it must not be changed.
func (r Resource) Value() []byte { return r.value }

// IsZero reports whether r is no resource.
func (r Resource) IsZero() bool { return r.typeURL == "" }

// hash is a version over the parts, each with its length before it, so that no two lists of parts read alike.
func hash(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:versionBytes])
}
