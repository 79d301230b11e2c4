package settings_test

import (
	"fmt"
	"time"

	"github.com/tagstore/tagstore/core/settings"
)

type exampleConfig struct {
	Listen  string          `env:"LISTEN" default:"127.0.0.1:7070" doc:"address to serve on"`
	Clients []string        `env:"CLIENT_IDS" required:"true" doc:"app clients, parted by commas"`
	Timeout time.Duration   `env:"TIMEOUT" default:"5s" doc:"longest time for one call"`
	Key     settings.Secret `env:"KEY" doc:"key that seals page tokens"`
}

func ExampleLoad() {
	environ := []string{"DEMO_CLIENT_IDS=web,mobile", "DEMO_KEY=hunter2", "PATH=/bin"}
	var c exampleConfig
	if err := settings.Load(environ, "DEMO_", &c); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Listen, c.Clients, c.Timeout, c.Key)

	fmt.Println(settings.Load([]string{"DEMO_TIMEOUT=5", "DEMO_CLIENT_ID=web"}, "DEMO_", &c))
	// Output:
	// 127.0.0.1:7070 [web mobile] 5s [redacted]
	// settings.Load: 3 settings are wrong:
	//   DEMO_CLIENT_ID: is not a setting of this program (did you mean DEMO_CLIENT_IDS? else unset it)
	//   DEMO_CLIENT_IDS: is required and not set (set it: app clients, parted by commas)
	//   DEMO_TIMEOUT: is not a duration (write one such as 500ms, 5s or 1h30m)
}

func ExampleUsageFor() {
	fmt.Print(settings.UsageFor("DEMO_", &exampleConfig{}))
	// Output:
	// NAME             TYPE      DEFAULT         MEANING
	// DEMO_LISTEN      text      127.0.0.1:7070  address to serve on
	// DEMO_CLIENT_IDS  list      (required)      app clients, parted by commas
	// DEMO_TIMEOUT     duration  5s              longest time for one call
	// DEMO_KEY         secret    -               key that seals page tokens
}
