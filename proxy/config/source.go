package config

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Prefix begins every environment variable that is a setting.
const Prefix = "ZDM_"

// FromEnvironment picks the settings out of os.Environ(), for Parse. Variables
// that begin with ZDM_ and are no setting are told in warnings and left out, as
// ZDM Proxy ignores them.
func FromEnvironment(environ []string) (values map[string]string, warnings []string) {
	values = map[string]string{}
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, Prefix) {
			continue
		}
		key := strings.ToLower(strings.TrimPrefix(name, Prefix))
		if i, known := byKey[key]; known && Prefix+table[i].Name == name {
			values[key] = text
			continue
		}
		warning := name + ": not a setting, and ignored"
		if near := nearest(key); near != "" {
			warning += "; did you mean " + Prefix + strings.ToUpper(near) + "?"
		}
		warnings = append(warnings, warning)
	}
	slices.Sort(warnings)
	return values, warnings
}

// FromYAML reads a -config file, for Parse: one mapping of settings in lower
// case to scalars, or to lists where the setting is a list. Unknown and repeated
// keys and nested values are told all at once, as an *Error.
func FromYAML(b []byte) (map[string]string, error) {
	values := map[string]string{}
	var doc yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return values, nil
	} else if err != nil {
		return nil, yamlError(err)
	}
	var (
		p      problems
		broken []string // keys whose value could not be read
	)
	if err := dec.Decode(new(yaml.Node)); err == nil {
		p.add("a second YAML document follows; keep one")
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		if root.Tag == "!!null" {
			return values, nil
		}
		return nil, &Error{Problems: []string{"not a YAML mapping; write one line a setting, such as origin_port: 9042"}}
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, node := root.Content[i].Value, root.Content[i+1]
		at := fmt.Sprintf("%s (line %d)", key, root.Content[i].Line)
		row, known := byKey[key]
		_, repeated := values[key]
		switch {
		case !known:
			p.add("%s (line %d)", unknown(key), root.Content[i].Line)
			continue
		case repeated:
			p.add("%s: given twice; leave one of them out", at)
			continue
		}
		text, err := yamlText(node, &table[row])
		if err != nil {
			p.add("%s: %v", at, err)
			broken = append(broken, key)
		}
		values[key] = text
	}
	if len(p) > 0 {
		return nil, &Error{Problems: append(p, others(values, broken)...)}
	}
	return values, nil
}

// others are the problems of the settings that could be read, so that a file is
// mended in one go.
func others(values map[string]string, broken []string) (out []string) {
	var more *Error
	if _, err := Parse(values); !errors.As(err, &more) {
		return nil
	}
	for _, problem := range more.Problems {
		key, _, _ := strings.Cut(problem, ":")
		if !slices.Contains(broken, key) {
			out = append(out, problem)
		}
	}
	return out
}

// yamlError drops what the parser quotes of the file after its first line: a
// password may stand there.
func yamlError(err error) error {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return &Error{Problems: []string{first + "; mend the file's YAML"}}
}

func yamlText(node *yaml.Node, s *Setting) (string, error) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null":
		return "", nil
	case node.Kind == yaml.ScalarNode:
		return node.Value, nil
	case node.Kind == yaml.SequenceNode && s.Type == TypeList:
		entries := make([]string, len(node.Content))
		for i, n := range node.Content {
			if n.Kind != yaml.ScalarNode || strings.Contains(n.Value, ",") {
				return "", fmt.Errorf("entry %d is not a plain value; give text without commas", i+1)
			}
			entries[i] = n.Value
		}
		return strings.Join(entries, ", "), nil
	case s.Type == TypeList:
		return "", errors.New("holds a mapping; give a list, or one text with commas")
	}
	return "", errors.New("holds a list or mapping; give one plain value")
}

func unknown(key string) string {
	if near := nearest(strings.ToLower(strings.TrimPrefix(strings.ToLower(key), "zdm_"))); near != "" {
		return fmt.Sprintf("%s: unknown setting; did you mean %s?", key, near)
	}
	return key + ": unknown setting; leave it out"
}

// nearest is the setting that differs from key in at most two letters, or "".
func nearest(key string) string {
	best, found := 3, ""
	for i := range table {
		if d := distance(key, table[i].Key(), best); d < best {
			best, found = d, table[i].Key()
		}
	}
	return found
}

// distance counts the letters to insert, drop or replace, up to limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}
