//go:build race

package latency

const raceDetector = true
