package provider

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
)

// The guide's tables of variables name attributes that there are.
func TestTheGuideFromAnsibleNamesAttributesThatThereAre(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile(filepath.Join("..", "docs", "guides", "from-ansible.md"))
	if err != nil {
		t.Fatal(err)
	}
	var there resource.SchemaResponse
	(&clusterResource{}).Schema(t.Context(), resource.SchemaRequest{}, &there)
	_, table, _ := strings.Cut(string(guide), "\n## Variables\n")
	table, _, _ = strings.Cut(table, "\n## ")
	found := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, name := range regexp.MustCompile("`[^`]+`").FindAllString(cells[2], -1) {
			found++
			at := path.Empty()
			for i, step := range strings.Split(strings.Trim(name, "`"), ".") {
				switch {
				case i == 0:
					at = path.Root(step)
				case step == "*":
					at = at.AtMapKey("a")
				default:
					at = at.AtName(step)
				}
			}
			if _, diags := there.Schema.AttributeAtPath(t.Context(), at); diags.HasError() {
				t.Errorf("the guide names %s, which is no attribute", name)
			}
		}
	}
	if found == 0 {
		t.Error("the guide names no attribute")
	}
}
