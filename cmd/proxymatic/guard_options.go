package main

import "time"

// guardOptions say what is taken for a loss that may not be one.
func guardOptions() []option {
	return []option{
		{name: "guard-percent", env: "GUARD_PERCENT", arg: "PERCENT", def: "50",
			help: "Hold servers that a source forgets without a word when they are more of its servers than this; the last one of a service always",
			set:  into(func(c *Config) *int { return &c.Guard.Percent }, upTo(100))},
		{name: "guard-min", env: "GUARD_MIN", arg: "N", def: "5",
			help: "And at least so many",
			set:  into(func(c *Config) *int { return &c.Guard.Min }, count)},
		{name: "guard-hold", env: "GUARD_HOLD", arg: "TIME", def: "60s",
			help: "How long the source must repeat it before they go; at least two refresh intervals",
			set:  into(func(c *Config) *time.Duration { return &c.Guard.Hold }, duration)},
		{name: "flap-limit", env: "FLAP_LIMIT", arg: "N", def: "6",
			help: "Hold a server out, with growing pauses, that comes more often than this within a minute, while others serve; 0 never does",
			set:  into(func(c *Config) *int { return &c.FlapLimit }, noneUpTo(1000))},
	}
}
