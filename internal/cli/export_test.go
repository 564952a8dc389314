package cli

// NoFormula is noFormula, for what no command can be brought to print.
var NoFormula = noFormula

// PatchOf is patchOf, for files of odd forms.
var PatchOf = patchOf
