// Package server answers the gRPC API: it parses what arrives, asks the core, and puts answers and errors on the wire.
//
// It knows messages, metadata, deadlines, rate limits, and which kind of caller may call which method. It must never decide
// about a certificate, verify an ID token, or write a record itself: the core, the verifier and the log do.
package server
