// Package examples holds the example meshes, so that the binary can run them without a checkout.
package examples

import (
	"embed"
	"io/fs"
)

//go:embed all:two-tenants all:starter
var files embed.FS

// TwoTenants is the configuration directory two-tenants: two tenants with services of the same names, and a shared
// service that is granted to one of them.
func TwoTenants() fs.FS { return sub("two-tenants") }

// Starter is the configuration directory starter: the least that is a mesh, with its test. Its documents name their
// schema as the file .ringfence.schema.json at the top of the directory.
func Starter() fs.FS { return sub("starter") }

func sub(name string) fs.FS {
	dir, err := fs.Sub(files, name)
	if err != nil {
		panic(err) // the name is a constant, and a valid path
	}
	return dir
}
