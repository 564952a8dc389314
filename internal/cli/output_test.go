package cli_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/cli"
)

func TestJSONHasNothingThatATerminalActsOn(t *testing.T) {
	for text, want := range map[string]string{
		"é ☃ 𝄞 <b>":              "\"é ☃ 𝄞 <b>\"\n",
		"\x1b\u007f\u0085\u009b": `"\u001b\u007f\u0085\u009b"` + "\n",
		"\u202e\u2028\u200b":     `"\u202e\u2028\u200b"` + "\n",
		"a tag \U000e0041":       `"a tag \udb40\udc41"` + "\n",
	} {
		for _, v := range []any{text, json.RawMessage(`"` + text + `"`)} {
			if raw, ok := v.(json.RawMessage); ok && !json.Valid(raw) {
				continue
			}
			var got bytes.Buffer
			if err := cli.WriteJSON(&got, v, "", ""); err != nil || got.String() != want {
				t.Errorf("%q is %s, error %v; want %s", text, &got, err, want)
			}
			var again string
			if err := json.Unmarshal(got.Bytes(), &again); err != nil || again != text {
				t.Errorf("%s is read as %q, error %v; want %q", &got, again, err, text)
			}
		}
	}
}
