package cli

import "context"

// NoFormula is noFormula, for what no command can be brought to print.
var NoFormula = noFormula

// WriteJSON is writeJSON, for texts that no daemon lets in.
var WriteJSON = writeJSON

// PatchOf is patchOf, for files of odd forms.
var PatchOf = patchOf

// Locks take a lock of each kind. A process may hold one of each.
var Locks = map[string]func(ctx context.Context, name string) (unlock func(), err error){
	"target": func(ctx context.Context, name string) (func(), error) {
		return lockTarget(ctx, target{name, "host.example.com"})
	},
	"sign-in": func(ctx context.Context, _ string) (func(), error) { return lockSignIn(ctx) },
	"log":     lockLog,
}

// PartsFrom says from which index on a log is another than what was read of it, from one index on. Each digit is the epoch of a record.
func PartsFrom(first uint64, read, log string) uint64 {
	of := func(index uint64, epochs string) (r reading) {
		for _, digit := range epochs {
			r = r.and(index, uint32(digit-'0'))
			index++
		}
		return r
	}
	now := of(0, log)
	return of(first, read).partsFrom(now.epochs, now.next)
}
