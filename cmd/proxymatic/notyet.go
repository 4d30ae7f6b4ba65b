package main

import "errors"

// unbuilt tells which setting asks for a part that this version does not have. Everything about such parts stands in
// this file.
func (c Config) unbuilt() error {
	if c.MarathonCallback != "" {
		return errors.New("--marathon-callback: listening for callbacks is not built yet in this version; remove it, Marathon's event stream is followed without it")
	}
	return nil
}
