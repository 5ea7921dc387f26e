// Package archtest holds the rules of the tree that a compiler does not check:
// which package may import which, who owns a third-party library, where package
// docs are, how long a file or a function may be, and what has no place in it.
package archtest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Module is the module's path.
const Module = "github.com/braidmq/braid"

// A File is one Go file of the tree, generated code left out.
type File struct {
	Path   string // from the root of the module, with slashes
	Test   bool   // a _test.go file
	Source []byte
	Syntax *ast.File
	Set    *token.FileSet
}

// Package returns the path of the file's package from the root of the module.
func (f *File) Package() string { return path.Dir(f.Path) }

// Imports returns the paths that the file imports.
func (f *File) Imports() []string {
	all := make([]string, 0, len(f.Syntax.Imports))
	for _, i := range f.Syntax.Imports {
		all = append(all, strings.Trim(i.Path.Value, `"`))
	}
	return all
}

// Lines returns how many lines a node takes.
func (f *File) Lines(n ast.Node) int {
	return f.Set.Position(n.End()).Line - f.Set.Position(n.Pos()).Line + 1
}

// At returns where a node is, for messages.
func (f *File) At(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.Path, f.Set.Position(n.Pos()).Line)
}

// Root finds the root of the module above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = up
	}
}

// foreign are directories whose content is not written by hand, or not ours.
var foreign = map[string]bool{".git": true, ".cache": true, ".task": true, "node_modules": true, "gen": true, "__pycache__": true, "target": true, "bin": true, "dist": true}

// walk calls f for every file below root that belongs to the project.
func walk(root string, f func(name string) error) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != root && foreign[d.Name()] {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		return f(filepath.ToSlash(rel))
	})
}

// GoFiles parses every Go file below root, generated code left out.
func GoFiles(root string) ([]*File, error) {
	var all []*File
	err := walk(root, func(name string) error {
		if path.Ext(name) != ".go" {
			return nil
		}
		source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		syntax, err := parser.ParseFile(set, name, source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if ast.IsGenerated(syntax) {
			return nil
		}
		all = append(all, &File{Path: name, Test: strings.HasSuffix(name, "_test.go"), Source: source, Syntax: syntax, Set: set})
		return nil
	})
	return all, err
}

// TextFiles returns the paths of all files below root that people write: code,
// settings and prose.
func TextFiles(root string) ([]string, error) {
	kinds := map[string]bool{
		".go": true, ".md": true, ".yml": true, ".yaml": true, ".proto": true, ".py": true, ".java": true,
		".js": true, ".mjs": true, ".ts": true, ".sh": true, ".lua": true, ".xml": true, ".properties": true, "": true,
	}
	var all []string
	err := walk(root, func(name string) error {
		if kinds[path.Ext(name)] {
			all = append(all, name)
		}
		return nil
	})
	return all, err
}
