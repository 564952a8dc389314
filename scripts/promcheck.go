//go:build ignore

// Promcheck reads docs/watching as Prometheus would: the alerting rules with its own rule parser, and the queries of the dashboard
// with its own query parser. `make lint` runs it with tools-promql.mod, so that none of Prometheus is a dependency of Hallpass.
package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	failed := false
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		failed = true
	}
	queries := parser.NewParser(parser.Options{})
	if _, errs := rulefmt.ParseFile("docs/watching/alerts.yaml", false, model.LegacyValidation, queries, slog.Default()); len(errs) > 0 {
		for _, err := range errs {
			fail(err)
		}
	}
	text, err := os.ReadFile("docs/watching/dashboard.json")
	if err != nil {
		fail(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		fail(err)
	}
	for _, p := range dashboard.Panels {
		for _, t := range p.Targets {
			// Grafana replaces its variables before Prometheus sees the query.
			if _, err := queries.ParseExpr(strings.ReplaceAll(t.Expr, "$__rate_interval", "5m")); err != nil {
				fail(fmt.Errorf("docs/watching/dashboard.json: %s: %w", p.Title, err))
			}
		}
	}
	if failed {
		os.Exit(1)
	}
}
