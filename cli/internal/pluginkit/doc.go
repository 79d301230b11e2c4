// Package pluginkit is what `tagctl plugin` does for the author of a plugin:
// write one, look at it, hold it to the driver contract, measure it and pack it.
// It knows a plugin as an executable and nothing more, so that the language does
// not matter.
package pluginkit
