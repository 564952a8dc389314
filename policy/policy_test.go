package policy_test

import (
	"testing"

	"github.com/hallpass-ssh/hallpass/policy"
)

func compile(t testing.TB, files ...string) (*policy.Policy, error) {
	t.Helper()
	b := &policy.Bundle{Files: map[string][]byte{}, Source: "test"}
	for i := 0; i+1 < len(files); i += 2 {
		b.Files[files[i]] = []byte(files[i+1])
	}
	return policy.Compile(b)
}

func TestScratch(t *testing.T) {
	dir := t.TempDir()
	if err := policy.WriteExample(dir, policy.ExampleParams{Login: "me"}); err != nil {
		t.Fatal(err)
	}
	b, err := policy.ReadDir(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(p.Ref())
	_, err = compile(t, "policy.yaml", `version: 1
lists: {}
claims:
  contractor: {type: bool, default: false}
  level: {type: int}
environments:
  prod: {hosts: ["*.prod.example.com"], max_ttl: 30h, authority: prod}
  prod2: {hosts: ["db?.prod.example.com"], authority: prod}
allow:
- name: a
  when: environment == "prdo" && "x" in identity.gruops &&
        claims.contractr && enviroment == "3"
  require: {approvals: {count: 1}, reason: yes}
  grant: {logins: [deploy, "x${claims.level}y", "${request.lgoin}"], ttl: 2h, extensions: [force-command], verify_required: true}
- name: b
  when: |
    environment == 3 ||
      identity.groups.exists(g, g.matches("a.*"))
  grant: {logins: [deploy], ttl: 2h, scpe: any, source_address: [10.0.0.1/8]}
- name: b
  when: identity.groups.exists(g, identity.groups.exists(h, h == g + request.host))
- name: c
  when: "has(identity.email) && \"a\" == 3"
  grant: &a {logins: [deploy], ttl: 2h}
- name: d
  when: >-
   identity.email == "x"
   &&  claims
  grant: *a
- name: e
  when: request.ttl
  grant: {logins: [deploy], ttl: 2h}
- {name: f, when: "now.getHours(\"Europe/Belrin\") > 3 &&", grant: {logins: [de], ttl: 90m}}
deny:
- name: x
  when: claims.level == 3
`)
	t.Log("\n" + err.Error())
}
