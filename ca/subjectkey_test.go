package ca_test

import (
	"encoding/binary"
	"encoding/hex"
)

// basePoint is the base point of Ed25519, a key that is well formed and nobody's.
var basePoint = unhex("5866666666666666666666666666666666666666666666666666666666666666")

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// wire joins fields as SSH strings.
func wire(fields ...[]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return b
}

func ed25519Wire(point []byte) []byte { return wire([]byte("ssh-ed25519"), point) }
