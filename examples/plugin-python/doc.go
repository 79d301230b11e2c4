// Package pluginpython holds the tests of a storage plugin that is written in
// Python: the conformance suite, and what the plugin's process does when it is
// killed, stopped or replaced. README.md is about the plugin.
package pluginpython
