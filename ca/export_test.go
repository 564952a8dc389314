package ca

// Lint runs the lints over bytes as if they were to be signed for a with this serial.
func (c *CA) Lint(a *Attempt, serial uint64, toBeSigned []byte) error {
	return lint(toBeSigned, c.expect(a, serial))
}

// LintNames returns the names of all lints.
func LintNames() []string {
	names := make([]string, len(lints))
	for i, l := range lints {
		names[i] = l.name
	}
	return names
}

// KeyID, SourceAddressValid, PrincipalValid and IsValidPoint are what tests hold against their oracles.
var (
	KeyID              = keyID
	SourceAddressValid = validSourceAddress
	PrincipalValid     = func(s string) bool { return !notPrincipal(s) }
	IsValidPoint       = validEd25519
)

// NewBatchVerifier returns what verifies signatures of a key for many callers at once.
func NewBatchVerifier(key []byte) interface {
	Verify(message, signature []byte) error
} {
	return exportedVerifier{newBatchVerifier(key)}
}

type exportedVerifier struct{ *batchVerifier }

func (v exportedVerifier) Verify(message, signature []byte) error {
	return v.verify(message, signature)
}

// AllValid says whether signatures of a key, each over the message at its place, verify together.
func AllValid(key []byte, messages, signatures [][]byte) bool {
	var batch []*verification
	for i := range messages {
		batch = append(batch, &verification{message: messages[i], signature: signatures[i]})
	}
	return newBatchVerifier(key).allValid(batch)
}

// PanicInBatch says what comes of a batch in the midst of which something panics.
func PanicInBatch(key []byte) (valid bool) {
	return newBatchVerifier(key).allValid([]*verification{nil})
}
