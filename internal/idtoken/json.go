package idtoken

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

const maxDepth = 16 // of nested objects and lists

// decodeObject decodes one JSON object as encoding/json does with UseNumber, but refuses what two readers could read in two ways:
// a name that comes twice, at any depth, and text that is not UTF-8.
func decodeObject(raw []byte) (map[string]any, error) {
	if !json.Valid(raw) { // a Decoder alone does not look at what follows the object
		return nil, errors.New("not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	members, err := checkValue(object, 0)
	if err != nil {
		return nil, err
	}
	if members != countMembers(raw) { // of two with one name, one is left
		return nil, fmt.Errorf("%.40q comes twice", repeated(json.NewDecoder(bytes.NewReader(raw))))
	}
	return object, nil
}

// checkValue checks the texts and the depth of a value, and returns how many members its objects have, at any depth.
func checkValue(value any, depth int) (members int, err error) {
	if depth > maxDepth {
		return 0, errors.New("nested too deeply")
	}
	switch value := value.(type) {
	case string:
		if !validText(value) {
			return 0, errors.New("text that is not UTF-8")
		}
	case []any:
		for _, element := range value {
			n, err := checkValue(element, depth+1)
			if err != nil {
				return 0, err
			}
			members += n
		}
	case map[string]any:
		for name, member := range value {
			if !validText(name) {
				return 0, errors.New("a name that is not UTF-8")
			}
			n, err := checkValue(member, depth+1)
			if err != nil {
				return 0, err
			}
			members += 1 + n
		}
	}
	return members, nil
}

// countMembers returns how many members the objects of a JSON text have: in valid JSON, as many as there are colons outside of strings.
func countMembers(raw []byte) int {
	members, inString := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			inString = !inString
		case c == '\\': // only strings have escapes
			i++
		case c == ':' && !inString:
			members++
		}
	}
	return members
}

// repeated returns the first name that comes twice in one object of a JSON text.
func repeated(d *json.Decoder) string {
	token, _ := d.Token()
	if token != json.Delim('{') && token != json.Delim('[') {
		return ""
	}
	names := map[json.Token]bool{}
	for d.More() {
		if token == json.Delim('{') {
			name, _ := d.Token()
			if names[name] {
				return fmt.Sprint(name)
			}
			names[name] = true
		}
		if name := repeated(d); name != "" {
			return name
		}
	}
	_, _ = d.Token() // what closes it
	return ""
}
