// Package templates has the configuration templates that are built in, and the data that a template is given.
package templates

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"text/template"
)

// ErrMako marks a template that is written for the Python original.
var ErrMako = errors.New("this is a Mako template of the Python version; proxymatic needs a Go text/template " +
	"(see \"Templates\" in the README for the variables' new names)")

var makoSyntax = regexp.MustCompile(`(?m)^\s*%\s*(for|if|endfor|endif|while)\b|\$\{|<%`)

// parse reads the template at path, or the built-in text of the given name when path is empty.
func parse(path, name, text string) (*template.Template, error) {
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read template: %w", err)
		}
		name, text = path, string(raw)
	}
	if makoSyntax.MatchString(text) && !strings.Contains(text, "{{") {
		return nil, fmt.Errorf("template %s: %w", name, ErrMako)
	}
	t, err := template.New(name).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse template: %w", err)
	}
	return t, nil
}
