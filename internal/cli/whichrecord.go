package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/spf13/cobra"
)

// whichRecord names a decision: by the serial of its certificate, as sshd logs it, or by the record.
type whichRecord struct {
	index  uint64
	serial uint64 // 0: it was named by the record
}

// recordFlags are for those who rather write flags.
type recordFlags struct{ record, serial string }

func (f *recordFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.record, "record", "", "the number of a record")
	cmd.Flags().StringVar(&f.serial, "serial", "", "the serial of a certificate, as sshd logs it")
}

// given says whether one of the flags was.
func (f recordFlags) given() bool { return f.record != "" || f.serial != "" }

// which reads the flags, or else the words.
func (f recordFlags) which(words []string) (whichRecord, error) {
	given := 0
	for _, here := range []bool{f.record != "", f.serial != "", len(words) > 0} {
		if here {
			given++
		}
	}
	switch {
	case given != 1:
		return whichRecord{}, errors.New("which decision? give the serial of a certificate, or --record N, or a line of sshd's log that names one")
	case f.record != "":
		return recordNamed(f.record)
	case f.serial != "":
		return serialNamed(f.serial)
	}
	return parseWhich(strings.Join(words, " "))
}

var (
	recordWord = regexp.MustCompile(`^(?:record[: ]?|#)\s*([0-9]+)$`)
	serialWord = regexp.MustCompile(`^(?:serial[: ]?)?\s*([0-9]+)$`)
	// What sshd writes of a certificate: "... ID hallpass1 i=12 s=... (serial 13) CA ...". A user name stands before it and may be
	// anything, so that the last one counts.
	keyIDWord     = regexp.MustCompile(`hallpass1 i=([0-9]+)(?:\s|$)`)
	sshSerialWord = regexp.MustCompile(`\(serial ([0-9]+)\)`)
)

// parseWhich reads "13" (a serial), "record:12", "#12", or text with a key ID of ours, such as a line of sshd's log.
func parseWhich(text string) (whichRecord, error) {
	text = strings.TrimSpace(text)
	if found := recordWord.FindStringSubmatch(strings.ToLower(text)); found != nil {
		return recordNamed(found[1])
	}
	if found := serialWord.FindStringSubmatch(strings.ToLower(text)); found != nil {
		return serialNamed(found[1])
	}
	ids, serials := keyIDWord.FindAllStringSubmatch(text, -1), sshSerialWord.FindAllStringSubmatch(text, -1)
	if len(ids) == 0 && len(serials) == 0 {
		return whichRecord{}, fmt.Errorf("%.80q names no decision: want the serial of a certificate, record:N, or text with a key ID such as \"hallpass1 i=12 ...\"", text)
	}
	var byID, bySerial whichRecord
	var err error
	if len(ids) > 0 {
		if byID, err = recordNamed(ids[len(ids)-1][1]); err != nil || len(serials) == 0 {
			return byID, err
		}
	}
	if bySerial, err = serialNamed(serials[len(serials)-1][1]); err != nil {
		return bySerial, err
	}
	if len(ids) > 0 && byID.index != bySerial.index {
		return whichRecord{}, fmt.Errorf("the text names two decisions, record %d by its key ID and record %d by its serial: give one of them", byID.index, bySerial.index)
	}
	return bySerial, nil
}

func recordNamed(text string) (whichRecord, error) {
	index, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return whichRecord{}, fmt.Errorf("%.40q is not the number of a record", text)
	}
	return whichRecord{index: index}, nil
}

func serialNamed(text string) (whichRecord, error) {
	serial, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return whichRecord{}, fmt.Errorf("%.40q is not the serial of a certificate", text)
	}
	_, index, ok := audit.IndexOf(serial)
	if !ok {
		return whichRecord{}, fmt.Errorf("no certificate has the serial %d", serial)
	}
	return whichRecord{index: index, serial: serial}, nil
}
