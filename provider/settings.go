package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// field is one of the proxy's settings as an attribute. Attributes are made of
// package config's table, so that a setting has one name, bound and default.
type field struct {
	// name of the attribute in its object.
	name    string
	setting config.Setting
}

// fields is an object of settings.
type fields []field

// elsewhere are settings that no object holds: the phase is a resource of its
// own, and the others are worked out for each instance or have an attribute of
// their own.
var elsewhere = []string{
	"phase", "primary_cluster", "read_mode",
	"proxy_topology_index", "proxy_topology_addresses",
	"proxy_listen_address", "proxy_listen_port", "metrics_address",
	"client_credentials", "forward_client_credentials_to_origin",
}

// The objects: one for each side, and settings for the rest.
var (
	sideFields    = [2]fields{fieldsOf("origin_"), fieldsOf("target_")}
	settingFields = fieldsOf("")
)

func fieldsOf(prefix string) fields {
	var out fields
	for _, s := range config.Settings() {
		key := s.Key()
		ofSide := strings.HasPrefix(key, "origin_") || strings.HasPrefix(key, "target_")
		if s.Secret || s.Support != config.Honoured || slices.Contains(elsewhere, key) ||
			ofSide != (prefix != "") || !strings.HasPrefix(key, prefix) {
			continue
		}
		out = append(out, field{strings.TrimPrefix(key, prefix), s})
	}
	return out
}

// lookUp returns a setting by key; it panics for one that does not exist.
func lookUp(key string) field {
	for _, s := range config.Settings() {
		if s.Key() == key {
			return field{key, s}
		}
	}
	panic("provider: no setting " + key)
}

func passwordKey(side phase.Side) string { return side.String() + "_password" }

func (f field) key() string { return f.setting.Key() }

func (f field) attrType() attr.Type {
	switch f.setting.Type {
	case config.TypeBool:
		return types.BoolType
	case config.TypeInt, config.TypeMillis:
		return types.Int64Type
	case config.TypeFloat:
		return types.Float64Type
	case config.TypeList:
		return types.ListType{ElemType: types.StringType}
	}
	return types.StringType
}

// describe is the setting's documentation with bounds and default.
func (f field) describe() string {
	s := f.setting
	text := s.Doc
	if s.Bounds != "" && s.Type != config.TypeBool {
		text += " " + strings.ToUpper(s.Bounds[:1]) + s.Bounds[1:] + "."
		if s.Type == config.TypeWord {
			text = s.Doc + " One of " + s.Bounds + "."
		}
	}
	if s.Default != "" {
		text += " Default: `" + s.Default + "`."
	}
	return text
}

// attribute is optional: what a side needs depends on its other settings, and
// the check of the whole tells.
func (f field) attribute() schema.Attribute {
	d := f.describe()
	check := valid{f}
	switch f.setting.Type {
	case config.TypeBool:
		return schema.BoolAttribute{Optional: true, MarkdownDescription: d}
	case config.TypeInt, config.TypeMillis:
		return schema.Int64Attribute{Optional: true, MarkdownDescription: d, Validators: []validator.Int64{check}}
	case config.TypeFloat:
		return schema.Float64Attribute{Optional: true, MarkdownDescription: d, Validators: []validator.Float64{check}}
	case config.TypeList:
		return schema.ListAttribute{ElementType: types.StringType, Optional: true, MarkdownDescription: d, Validators: []validator.List{check}}
	}
	return schema.StringAttribute{Optional: true, MarkdownDescription: d, Validators: []validator.String{check}}
}

func (fs fields) attributes() map[string]schema.Attribute {
	out := map[string]schema.Attribute{}
	for _, f := range fs {
		out[f.name] = f.attribute()
	}
	return out
}

func (fs fields) attrTypes() map[string]attr.Type {
	out := map[string]attr.Type{}
	for _, f := range fs {
		out[f.name] = f.attrType()
	}
	return out
}

// render writes an object's settings into a document.
func (fs fields) render(obj types.Object, into map[string]string) {
	values := obj.Attributes()
	for _, f := range fs {
		if text := textOf(values[f.name]); text != "" {
			into[f.key()] = text
		}
	}
}

// observe returns the object with the values that differ in the document taken
// from there. What means the same keeps the text that it was written with.
func (fs fields) observe(obj types.Object, more map[string]attr.Type, document map[string]string) (types.Object, diag.Diagnostics) {
	kinds := fs.attrTypes()
	values := map[string]attr.Value{}
	for name, kind := range more {
		kinds[name], values[name] = kind, nullOf(kind)
	}
	found := !obj.IsNull()
	old := obj.Attributes()
	for name := range more {
		if v, ok := old[name]; ok {
			values[name] = v
		}
	}
	for _, f := range fs {
		was, ok := old[f.name]
		if !ok {
			was = nullOf(f.attrType())
		}
		now := document[f.key()]
		if !same(f.key(), textOf(was), now) {
			was = f.value(now)
			found = true
		}
		values[f.name] = was
	}
	if !found {
		return types.ObjectNull(kinds), nil
	}
	return types.ObjectValue(kinds, values)
}

// value makes an attribute's value of a document's text; text that is not of
// the type, which an agent would have refused, is null.
func (f field) value(text string) attr.Value {
	kind := f.attrType()
	if text == "" {
		return nullOf(kind)
	}
	switch f.setting.Type {
	case config.TypeBool:
		if b, err := strconv.ParseBool(text); err == nil {
			return types.BoolValue(b)
		}
	case config.TypeInt, config.TypeMillis:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return types.Int64Value(n)
		}
	case config.TypeFloat:
		if n, err := strconv.ParseFloat(text, 64); err == nil {
			return types.Float64Value(n)
		}
	case config.TypeList:
		var items []attr.Value
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, types.StringValue(item))
			}
		}
		return types.ListValueMust(types.StringType, items)
	default:
		return types.StringValue(text)
	}
	return nullOf(kind)
}

func nullOf(kind attr.Type) attr.Value {
	switch kind {
	case types.BoolType:
		return types.BoolNull()
	case types.Int64Type:
		return types.Int64Null()
	case types.Float64Type:
		return types.Float64Null()
	case types.StringType:
		return types.StringNull()
	}
	return types.ListNull(types.StringType)
}

// textOf is the text that the environment variable would have; "" for null and
// unknown values.
func textOf(v attr.Value) string {
	if v == nil || v.IsNull() || v.IsUnknown() {
		return ""
	}
	switch v := v.(type) {
	case types.String:
		return v.ValueString()
	case types.Int64:
		return strconv.FormatInt(v.ValueInt64(), 10)
	case types.Float64:
		return strconv.FormatFloat(v.ValueFloat64(), 'g', -1, 64)
	case types.Bool:
		return strconv.FormatBool(v.ValueBool())
	case types.List:
		var items []string
		for _, item := range v.Elements() {
			items = append(items, textOf(item))
		}
		return strings.Join(items, ",")
	}
	panic(fmt.Sprintf("provider: no setting is a %T", v))
}

// same reports whether two texts of a setting mean the same.
func same(key, a, b string) bool {
	return a == b || a != "" && b != "" && canonical(key, a) == canonical(key, b)
}

// canonical is the text that package config would write.
func canonical(key, text string) string {
	values := map[string]string{"origin_contact_points": "o", "target_contact_points": "t", key: text}
	c, err := config.Parse(values)
	if err != nil {
		return text
	}
	return c.Values()[key]
}

// valid checks an attribute by itself, with package config's own words.
type valid struct{ f field }

func (v valid) Description(context.Context) string         { return v.f.setting.Bounds }
func (v valid) MarkdownDescription(context.Context) string { return v.f.setting.Bounds }

func (v valid) check(p path.Path, value attr.Value, diags *diag.Diagnostics) {
	if value.IsNull() || value.IsUnknown() {
		return
	}
	key := v.f.key()
	var bad *config.Error
	if errors.As(config.CheckSettings(map[string]string{key: textOf(value)}), &bad) {
		for _, problem := range bad.Problems {
			if text, ok := strings.CutPrefix(problem, key+": "); ok && !strings.HasPrefix(text, "missing") {
				diags.AddAttributeError(p, "Invalid setting", v.f.name+": "+text)
			}
		}
	}
}

func (v valid) ValidateString(_ context.Context, req validator.StringRequest, resp *validator.StringResponse) {
	v.check(req.Path, req.ConfigValue, &resp.Diagnostics)
}

func (v valid) ValidateInt64(_ context.Context, req validator.Int64Request, resp *validator.Int64Response) {
	v.check(req.Path, req.ConfigValue, &resp.Diagnostics)
}

func (v valid) ValidateFloat64(_ context.Context, req validator.Float64Request, resp *validator.Float64Response) {
	v.check(req.Path, req.ConfigValue, &resp.Diagnostics)
}

func (v valid) ValidateList(_ context.Context, req validator.ListRequest, resp *validator.ListResponse) {
	for _, item := range req.ConfigValue.Elements() {
		if item.IsUnknown() {
			return
		}
	}
	v.check(req.Path, req.ConfigValue, &resp.Diagnostics)
}
