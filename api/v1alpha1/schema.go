package v1alpha1

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"
)

const (
	typeString = "string"
	typeObject = "object"
)

const namePattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

// Schema is the JSON Schema of one document, made from the same struct tags that Decode reads. It keeps to draft 7, which
// every editor's YAML support understands. A document that Decode accepts is valid; the other way round the schema, which
// sees one document alone and only its shape, may pass what validation refuses.
func Schema() ([]byte, error) {
	reflector := &jsonschema.Reflector{Anonymous: true, DoNotReference: true, Mapper: scalarSchema}
	kind := &jsonschema.Schema{Type: typeString, Description: "What the document describes."}
	root := &jsonschema.Schema{
		Version: "http://json-schema.org/draft-07/schema#", Title: "Ringfence document " + APIVersion,
		Type: typeObject, Required: []string{"kind", "metadata", "spec"}, Properties: jsonschema.NewProperties(),
	}
	root.Properties.Set("kind", kind)
	for _, k := range Kinds() {
		kind.Enum = append(kind.Enum, string(k))
		document := reflector.ReflectFromType(reflect.TypeOf(newOf(k)).Elem())
		document.Version = ""
		tidy(document)
		is := jsonschema.NewProperties()
		is.Set("kind", &jsonschema.Schema{Const: string(k)})
		root.AllOf = append(root.AllOf, &jsonschema.Schema{
			If: &jsonschema.Schema{Properties: is, Required: []string{"kind"}}, Then: document,
		})
	}
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write the schema: %w", err)
	}
	return append(out, '\n'), nil
}

// scalarSchema says what the scalar types are in a document.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[String]():
		return &jsonschema.Schema{Type: typeString}
	case reflect.TypeFor[Int]():
		return &jsonschema.Schema{Type: "integer"}
	case reflect.TypeFor[Bool]():
		return &jsonschema.Schema{Type: "boolean"}
	case reflect.TypeFor[Time]():
		return &jsonschema.Schema{Type: typeString, Format: "date-time"}
	case reflect.TypeFor[Duration]():
		return &jsonschema.Schema{Type: typeString, Pattern: "^([0-9]+d|([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+)$"}
	case reflect.TypeFor[Claims]():
		return &jsonschema.Schema{Type: typeObject}
	case reflect.TypeFor[TestTokenRef]():
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: typeString}, {Type: typeObject}}}
	case reflect.TypeFor[Expectation]():
		deny := jsonschema.NewProperties()
		deny.Set("deny", &jsonschema.Schema{Type: typeString, Enum: texts(Denials())})
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{
			{Const: expectAllow},
			{Type: typeObject, Properties: deny, Required: []string{"deny"}, AdditionalProperties: jsonschema.FalseSchema},
		}}
	default:
		return nil
	}
}

func texts(list []string) []any {
	values := make([]any, len(list))
	for i, s := range list {
		values[i] = s
	}
	return values
}

// tidy writes out what the tags say in short, and that no list is empty.
func tidy(s *jsonschema.Schema) {
	if s.Format == "name" {
		s.Format, s.Pattern = "", namePattern
	}
	if s.Items != nil {
		if s.MinItems == nil {
			one := uint64(1)
			s.MinItems = &one
		}
		tidy(s.Items)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Type == "object" { // things by name
		one := uint64(1)
		s.PropertyNames, s.MinProperties = &jsonschema.Schema{Pattern: namePattern}, &one
		tidy(s.AdditionalProperties)
	}
	if s.Properties == nil {
		return
	}
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		tidy(p.Value)
	}
}
