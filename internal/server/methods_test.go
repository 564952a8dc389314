package server

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Each method of each service that the daemon could serve has a row, and each row is of a method that exists.
func TestEveryMethodIsInTheTable(t *testing.T) {
	known := map[string]bool{}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				full := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				known[full] = true
				if _, ok := methods[full]; !ok {
					t.Errorf("%s has no row in the table of methods", full)
				}
			}
		}
		return true
	})
	for full, m := range methods {
		if !known[full] {
			t.Errorf("the table has a row for %s, which no service has", full)
		}
		if m.callers == 0 || m.records == "" {
			t.Errorf("the row of %s does not say who may call it and what is recorded", full)
		}
		if m.callers&anybody != 0 && m.callers != anybody {
			t.Errorf("the row of %s says that anybody may call it, and then who else", full)
		}
	}
}
