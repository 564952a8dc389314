package devidp

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// webPage is what a Browser sees of an HTML page.
type webPage struct {
	url   *url.URL
	text  string // of its main part
	forms []form
}

type form struct {
	action  string
	method  string // http.MethodGet or http.MethodPost
	hidden  []field
	buttons []field
}

type field struct{ name, value string }

func parsePage(at *url.URL, body []byte) (webPage, error) {
	root, err := html.Parse(bytes.NewReader(body))
	if err != nil {
		return webPage{}, err
	}
	page := webPage{url: at}
	var text strings.Builder
	for n := range root.Descendants() {
		switch {
		case n.Type == html.TextNode && within(n, atom.Body):
			text.WriteString(n.Data + " ")
		case n.Type != html.ElementNode:
		case n.DataAtom == atom.Form:
			page.forms = append(page.forms, parseForm(n))
		}
	}
	page.text = strings.Join(strings.Fields(text.String()), " ")
	return page, nil
}

func within(n *html.Node, element atom.Atom) bool {
	for ancestor := range n.Ancestors() {
		if ancestor.DataAtom == element {
			return true
		}
	}
	return false
}

func parseForm(n *html.Node) form {
	f := form{action: attribute(n, "action"), method: http.MethodGet}
	if strings.EqualFold(attribute(n, "method"), http.MethodPost) {
		f.method = http.MethodPost
	}
	for d := range n.Descendants() {
		this := field{attribute(d, "name"), attribute(d, "value")}
		switch {
		case d.DataAtom == atom.Button:
			f.buttons = append(f.buttons, this)
		case d.DataAtom == atom.Input && attribute(d, "type") == "hidden":
			f.hidden = append(f.hidden, this)
		}
	}
	return f
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
