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
	if !json.Valid(raw) { // Decoder.Token alone lets some errors of form pass
		return nil, errors.New("not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	value, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	return object, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, errors.New("nested too deeply")
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '{' {
			return decodeMembers(d, depth)
		}
		return decodeElements(d, depth)
	case string:
		if !validText(token) {
			return nil, errors.New("text that is not UTF-8")
		}
	}
	return token, nil
}

func decodeMembers(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		if !validText(name) {
			return nil, errors.New("a name that is not UTF-8")
		}
		if _, found := object[name]; found {
			return nil, fmt.Errorf("%.40q comes twice", name)
		}
		if object[name], err = decodeValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token() // the closing brace
	return object, err
}

func decodeElements(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		value, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := d.Token() // the closing bracket
	return list, err
}
