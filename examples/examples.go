// Package examples holds the example meshes, so that the binary can run them without a checkout.
package examples

import (
	"embed"
	"io/fs"
)

//go:embed all:two-tenants
var files embed.FS

// TwoTenants is the configuration directory two-tenants: two tenants with services of the same names, and a shared
// service that is granted to one of them.
func TwoTenants() fs.FS {
	sub, err := fs.Sub(files, "two-tenants")
	if err != nil {
		panic(err) // the name is a constant, and a valid path
	}
	return sub
}
