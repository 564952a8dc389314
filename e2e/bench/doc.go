// Package bench measures what a certificate costs, end to end: the real daemon as a process of its own, TLS 1.3, ID tokens of a
// real issuer, proof of possession, and a record that is synced to a real disk before each answer.
//
// A time alone says little on a machine that others use too. So each run also measures, in turns with the daemon and on the same
// cores, what the parts of a certificate cost by themselves: the floor; and a bare server that does just these parts for the same
// clients. What a change did shows in the ratios to these, and surest with the daemon from before the change in the same run:
//
//	HALLPASS_BENCH_BASE=/path/to/older/hallpassd go test -run '^$' -bench . ./e2e/bench
//
// With HALLPASS_BENCH_RECORDS=1000000 there is also a daemon whose log is that long. docs/benchmarks.md says how to read the table.
package bench
