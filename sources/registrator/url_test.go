package registrator

import (
	"fmt"
	"strings"
	"testing"
)

func TestURLs(t *testing.T) {
	const where = "it should have no ? and no #, and special characters in a password are written as %XX, such as %2F for /"
	const member = " should be a host or host:port, several of them with commas between; IPv6 addresses are written as [::1]:2379"
	for raw, want := range map[string]string{
		"etcd://localhost:4001/services":   "[v3 v2] [localhost:4001] /services  ",
		"etcd://localhost:4001/services/":  "[v3 v2] [localhost:4001] /services  ",
		"etcd://localhost":                 "[v3 v2] [localhost:2379] /services  ",
		"etcd://localhost/":                "[v3 v2] [localhost:2379] /services  ",
		"etcd2://a:1,b,10.0.0.1:3/x/y":     "[v2] [a:1 b:2379 10.0.0.1:3] /x/y  ",
		"etcd3://[::1]:1,[::2]/x":          "[v3] [[::1]:1 [::2]:2379] /x  ",
		"etcd://u:p%2F%40@a/x":             "[v3 v2] [a:2379] /x u p/@",
		" etcd://u:p@w@a/x ":               "[v3 v2] [a:2379] /x u p@w",
		"http://a/x":                       `! "http://a/x": it should begin with etcd://, etcd2:// or etcd3://, as in etcd://host:4001/services`,
		"consul://u:zecret@a/x":            `! "consul://a/x": it should begin with etcd://, etcd2:// or etcd3://, as in etcd://host:4001/services`,
		"":                                 `! "": it should begin with etcd://, etcd2:// or etcd3://, as in etcd://host:4001/services`,
		"etcd://":                          `! "etcd://": ""` + member,
		"etcd://a,,b":                      `! "etcd://a,,b": ""` + member,
		"etcd://::1/x":                     `! "etcd://::1/x": "::1"` + member,
		"etcd://a:0/x":                     `! "etcd://a:0/x": "a:0" should have a port from 1 to 65535`,
		"etcd://a:70000/x":                 `! "etcd://a:70000/x": "a:70000" should have a port from 1 to 65535`,
		"etcd://a:p/x":                     `! "etcd://a:p/x": "a:p" should have a port from 1 to 65535`,
		"etcd://u:zec/ret@a/x":             `! "etcd://a/x": ` + where,
		"etcd://u:zec%ret@a/x":             `! "etcd://a/x": special characters in a name or password are written as %XX, and % itself as %25`,
		"etcd://u:zecret@/x":               `! "etcd:///x": ""` + member,
		"etcd://u:zecret@a:b/x":            `! "etcd://a:b/x": "a:b" should have a port from 1 to 65535`,
		"etcd://a/x?y":                     `! "etcd://a/x?y": ` + where,
		"etcd://a/x//y":                    `! "etcd://a/x//y": its path should have no empty part, no '.' and no '..'`,
		"etcd://a/../y":                    `! "etcd://a/../y": its path should have no empty part, no '.' and no '..'`,
		"etcd://a/x%20y":                   `! "etcd://a/x%20y": its path should have neither blanks nor quotes`,
		"etcd://a:2379/services,b:2379/x":  "[v3 v2] [a:2379] /services,b:2379/x  ",
		"etcd://a:2379,etcd://b:2379/here": `! "etcd://a:2379,etcd://b:2379/here": "etcd:" should have a port from 1 to 65535`,
	} {
		l, err := parseURL(raw)
		got := fmt.Sprintf("%s %s %s %s %s", l.stores, l.addrs, l.prefix, l.user, l.password)
		if err != nil {
			got = "! " + strings.TrimPrefix(err.Error(), "registrator URL ")
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", raw, got, want)
		}
	}
}

func TestConfigurationsThatCannotBe(t *testing.T) {
	for want, c := range map[string]Config{
		"registrator: there is a password, but no user":                          {URL: "etcd://a", Password: "zecret"},
		"registrator: a client certificate and its key are given together":       {URL: "etcd://a", CertFile: "x"},
		"registrator: CA certificates: open /none: no such file or directory":    {URL: "etcd://a", CAFile: "/none"},
		"registrator: CA certificates: url_test.go has none in PEM form":         {URL: "etcd://a", CAFile: "url_test.go"},
		"registrator: client certificate /c: open /c: no such file or directory": {URL: "etcd://a", CertFile: "/c", KeyFile: "/k"},
	} {
		if _, err := New(c); err == nil || err.Error() != want {
			t.Errorf("%+v: got %v, want %s", c, err, want)
		}
	}
}
