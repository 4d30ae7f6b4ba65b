package main

import (
	"errors"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// unbuilt tells which setting asks for a part that this version does not have. Everything about such parts stands in
// this file.
func (c Config) unbuilt() error {
	switch {
	case c.Registrator != "":
		return errors.New("--registrator: reading registrator is not built yet in this version; remove it and use --marathon or --services-file")
	case c.MarathonCallback != "":
		return errors.New("--marathon-callback: listening for callbacks is not built yet in this version; remove it, Marathon's event stream is followed without it")
	case !c.HAProxy:
		return errors.New("without --haproxy, services need pen, which is not built yet in this version; add --haproxy")
	}
	return nil
}

// unserved gives the transports that no proxy serves, and why.
func unserved() map[catalog.Proto]string {
	return map[catalog.Proto]string{catalog.UDP: "UDP services need pen, which is not built yet in this version"}
}
