package main

// stamp is the version where the Go tools cannot find one out, since the source was built without its repository, as in a
// container: -ldflags "-X main.stamp=v1.2.3". Only the linker writes it.
var stamp string
