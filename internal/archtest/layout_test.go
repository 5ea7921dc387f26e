package archtest_test

import (
	"bytes"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/archtest"
)

// Limits of files and functions.
const (
	fileLinesMax     = 800
	functionLinesMax = 70
	packageDocMax    = 12
)

// The file named after its package is where a reader begins: package doc and
// central type are there.
func TestOnePackageDocInTheFileNamedAfterThePackage(t *testing.T) {
	type package_ struct{ docs, files []string }
	packages := make(map[string]*package_)
	for _, f := range goFiles(t) {
		if f.Test {
			continue
		}
		p := packages[f.Package()]
		if p == nil {
			p = &package_{}
			packages[f.Package()] = p
		}
		p.files = append(p.files, f.Path)
		if f.Syntax.Doc == nil {
			continue
		}
		p.docs = append(p.docs, f.Path)
		want := f.Syntax.Name.Name + ".go"
		require.Equal(t, want, path.Base(f.Path), "%s: the package doc belongs in %s", f.Path, want)
		begin := "Package " + f.Syntax.Name.Name + " "
		if f.Syntax.Name.Name == "main" {
			begin = "Command " + path.Base(f.Package()) + " "
		}
		text := f.Syntax.Doc.Text()
		require.True(t, strings.HasPrefix(text, begin), "%s: the package doc begins with %q", f.Path, begin)
		require.LessOrEqual(t, strings.Count(text, "\n"), packageDocMax+1, "%s: a package doc has at most %d lines", f.Path, packageDocMax)
	}
	for name, p := range packages {
		if len(p.docs) != 1 {
			t.Errorf("package %q has %d package docs, want one: %v", name, len(p.docs), p.docs)
		}
	}
}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, f := range goFiles(t) {
		if n := bytes.Count(f.Source, []byte("\n")); n > fileLinesMax {
			t.Errorf("%s has %d lines, at most %d: two rooms are clearer", f.Path, n, fileLinesMax)
		}
		if f.Test || isTestTree(f.Package()) {
			continue
		}
		for _, d := range f.Syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil && f.Lines(fn.Body) > functionLinesMax+2 {
				t.Errorf("%s: %s has %d lines, at most %d", f.At(fn), fn.Name.Name, f.Lines(fn.Body)-2, functionLinesMax)
			}
		}
	}
}

// A test that can skip hides a missing part, and one that sleeps is slow or flaky.
func TestTestsNeitherSkipNorSleep(t *testing.T) {
	for _, f := range goFiles(t) {
		ast.Inspect(f.Syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			s, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			receiver, _ := s.X.(*ast.Ident)
			switch {
			case receiver == nil:
			case receiver.Name == "time" && s.Sel.Name == "Sleep":
				t.Errorf("%s: time.Sleep: wait for the event", f.At(call))
			case (f.Test || isTestTree(f.Package())) && (s.Sel.Name == "Skip" || s.Sel.Name == "Skipf" || s.Sel.Name == "SkipNow"):
				t.Errorf("%s: %s.%s: missing parts are installed, nothing is skipped", f.At(call), receiver.Name, s.Sel.Name)
			}
			return true
		})
	}
}

func TestNothingIsLeftForLater(t *testing.T) {
	root, err := archtest.Root()
	require.NoError(t, err)
	names, err := archtest.TextFiles(root)
	require.NoError(t, err)
	// Spelled so that this file does not find itself.
	word := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		require.NoError(t, err)
		for i, line := range bytes.Split(b, []byte("\n")) {
			// A linter may name what it forbids.
			if word.Match(line) && !bytes.Contains(line, []byte("pattern:")) {
				t.Errorf("%s:%d: unfinished: %s", name, i+1, bytes.TrimSpace(line))
			}
		}
	}
}

// The map of the code in the docs names packages that exist.
func TestArchitectureNamesRealPlaces(t *testing.T) {
	root, err := archtest.Root()
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	require.NoError(t, err)
	row := regexp.MustCompile("(?m)^\\| ((?:`[^`|]+`(?:, )?)+) \\|")
	named := row.FindAllStringSubmatch(string(b), -1)
	require.NotEmpty(t, named, "docs/architecture.md has no table of packages")
	for _, m := range named {
		for place := range strings.SplitSeq(m[1], ", ") {
			place = strings.Trim(place, "`")
			_, err := os.Stat(filepath.Join(root, filepath.FromSlash(place)))
			require.NoError(t, err, "docs/architecture.md names %q", place)
		}
	}
}
