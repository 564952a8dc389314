// Package audit is what a record is: its bytes, its words, the facts that follow from it, and the signed checkpoint over all
// of them.
//
// It knows how the words of ca are written down. It must never know where records are stored or who may read them.
package audit
