package main

import "github.com/meltwater/proxymatic/sources/marathon"

// marathonOptions say who we are to Marathon, and whom we take for it.
func marathonOptions() []option {
	text := func(field func(*marathon.Access) *string, read func(any) (string, error)) func(*Config, any) error {
		return into(func(c *Config) *string { return field(&c.MarathonAccess) }, read)
	}
	return []option{
		{name: "marathon-user", env: "MARATHON_USER", arg: "USER",
			help: "User of Marathon; one in a URL comes before it",
			set:  text(func(a *marathon.Access) *string { return &a.User }, word)},
		{name: "marathon-password", env: "MARATHON_PASSWORD", arg: "PASSWORD", secret: true,
			help: "Password of that user",
			set:  text(func(a *marathon.Access) *string { return &a.Password }, word)},
		{name: "marathon-token", env: "MARATHON_TOKEN", arg: "TOKEN", secret: true,
			help: "Token for Marathon, in place of a user",
			set:  text(func(a *marathon.Access) *string { return &a.Token }, word)},
		{name: "marathon-token-scheme", env: "MARATHON_TOKEN_SCHEME", arg: "SCHEME", def: marathon.SchemeToken,
			help: "How the token is sent: token (Authorization: token=..., as DC/OS wants it) or Bearer",
			set:  text(func(a *marathon.Access) *string { return &a.TokenScheme }, oneOf(marathon.SchemeToken, marathon.SchemeBearer))},
		{name: "marathon-service-account", env: "MARATHON_SERVICE_ACCOUNT", arg: "JSON", secret: true,
			help: "Service account of DC/OS, in the form of its secret: uid, private_key, login_endpoint, scheme. Tokens are fetched, and renewed, with it",
			set:  text(func(a *marathon.Access) *string { return &a.ServiceAccount }, document)},
		{name: "marathon-ca", env: "MARATHON_CA", arg: "FILE",
			help: "Certificates that Marathon's own is checked against, in place of the system's",
			set:  text(func(a *marathon.Access) *string { return &a.CAFile }, optionalPath)},
		{name: "marathon-cert", env: "MARATHON_CERT", arg: "FILE",
			help: "Certificate to show to Marathon",
			set:  text(func(a *marathon.Access) *string { return &a.CertFile }, optionalPath)},
		{name: "marathon-key", env: "MARATHON_KEY", arg: "FILE",
			help: "Key of that certificate",
			set:  text(func(a *marathon.Access) *string { return &a.KeyFile }, optionalPath)},
		{name: "marathon-insecure", env: "MARATHON_INSECURE", def: "false",
			help: "Do not check Marathon's certificate: whoever is between can read and change everything",
			set:  into(func(c *Config) *bool { return &c.MarathonAccess.Insecure }, yesNo)},
	}
}
