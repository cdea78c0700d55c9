// Package v1alpha1 holds the documents of a mesh as people write them (apiVersion ringfence.dev/v1alpha1) and reads them
// from YAML.
//
// Reading is strict, because a document that is read in two ways opens a tenant: an unknown field, a duplicate key, a
// value of the wrong type, an anchor, alias, merge key or tag is a problem, and so is a word that YAML 1.1 and 1.2 read
// differently. What the interface knows and this release does not build yet is refused as "not yet", never ignored.
//
// Decode looks at the shape of one file: it knows the fields of each kind, not what the values mean. Names, references
// and ownership are for package tenancy, which sees all documents together. Every scalar keeps its position, so a problem
// that is found later can still point at the field.
//
// Bytes are hostile here: Decode never panics, and its time and memory are bounded by the size of the file.
//
// Sources: YAML 1.2.2 (yaml.org/spec/1.2.2); the object shape of Kubernetes' API conventions.
package v1alpha1
