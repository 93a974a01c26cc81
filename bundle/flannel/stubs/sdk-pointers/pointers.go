// Package common stands in for a cloud SDK that Flannel's tencent-vpc backend imports.
// It holds only what that backend needs to compile.
package common

// StringPtr returns a pointer to v.
func StringPtr(v string) *string { return &v }

// BoolPtr returns a pointer to v.
func BoolPtr(v bool) *bool { return &v }

// StringPtrs returns a pointer to each of vals.
func StringPtrs(vals []string) []*string {
	out := make([]*string, 0, len(vals))
	for i := range vals {
		out = append(out, &vals[i])
	}
	return out
}
