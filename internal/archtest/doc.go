// Package archtest holds the shape of the module by tests: which package may import which, who may use which library, how old a
// library may be, and how long a file. It contains no code of the product and nothing imports it.
//
// A package that no layer names fails the test: whoever adds one says where it stands.
package archtest
