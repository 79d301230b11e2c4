package pluginmain

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"
	"time"
)

func TestLogLinesAreWhatHostsRead(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newLogHandler(&out))
	for level, want := range map[slog.Level]string{
		slog.LevelDebug - 4: "trace", slog.LevelDebug: "debug", slog.LevelInfo: "info", slog.LevelWarn: "warn", slog.LevelError: "error",
	} {
		out.Reset()
		log.Log(t.Context(), level, "what happened", "n", 1, "@level", "forged", slog.Group("g", "time", "x"))
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line["@level"] != want || line["@message"] != "what happened" || line["n"] != 1.0 || line["_level"] != "forged" {
			t.Errorf("line is %v", line)
		}
		at, _ := line["@timestamp"].(string)
		if _, err := time.Parse(hostTime, at); err != nil {
			t.Error(err)
		}
	}
}
