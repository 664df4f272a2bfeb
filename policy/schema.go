package policy

import (
	"encoding/json"
	"reflect"
	"strings"
)

// RequestSchema is the JSON Schema (2020-12) of a policy's standard input,
// made from the Go types.
func RequestSchema() json.RawMessage {
	return schemaText("ticket-policy/1 request", "What a policy reads.", schemaOf(reflect.TypeFor[Request]()))
}

// DecisionSchema is the JSON Schema (2020-12) of a policy's standard output.
func DecisionSchema() json.RawMessage {
	s := schemaOf(reflect.TypeFor[Decision]())
	narrow := map[string]any{"properties": map[string]any{"decision": map[string]any{"const": Narrow}}}
	s["if"], s["then"] = narrow, map[string]any{"required": []string{"limits"}}
	s["else"] = map[string]any{"properties": map[string]any{"limits": false}}
	return schemaText("ticket-policy/1 decision", "What a policy writes: exactly one.", s)
}

func schemaText(title, description string, s map[string]any) json.RawMessage {
	s["$schema"], s["title"], s["description"] = "https://json-schema.org/draft/2020-12/schema", title, description
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // maps of strings
	}
	return append(text, '\n')
}

// named are the types whose schema is more than their kind's.
var named = map[reflect.Type]map[string]any{
	rawType:                     {},
	reflect.TypeFor[Count]():    {"type": "integer", "minimum": 0, "maximum": uint64(MaxNumber)},
	reflect.TypeFor[Limit]():    {"type": "integer", "minimum": 1, "maximum": uint64(MaxNumber)},
	reflect.TypeFor[Event]():    {"enum": []Event{EventBuild, EventStart, EventCreate}},
	reflect.TypeFor[Verdict]():  {"enum": []Verdict{Allow, Deny, Narrow}},
	reflect.TypeFor[*bool]():    {"type": "boolean"},
	reflect.TypeFor[bool]():     {"type": "boolean"},
	reflect.TypeFor[string]():   {"type": "string"},
	reflect.TypeFor[[]string](): {"type": "array", "items": map[string]any{"type": "string"}},
}

func schemaOf(t reflect.Type) map[string]any {
	if s, ok := named[t]; ok {
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	}
	properties, required := map[string]any{}, []string{}
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		property := schemaOf(f.Type)
		switch name {
		case "abi":
			property = map[string]any{"const": ABI}
		case "reason":
			property = map[string]any{"type": "string", "maxLength": MaxReason}
		case "systems":
			property = map[string]any{
				"type": "array", "items": map[string]any{"type": "string", "minLength": 1},
				"minItems": 1, "maxItems": maxSystems, "uniqueItems": true,
			}
		}
		properties[name] = property
		if options != "omitempty" {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}
