package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// modules is how many a program of a language loads.
	modules = 1000
	// treeDirs directories with treeFiles files each are looked through.
	treeDirs, treeFiles = 100, 10
	// sources of C that include headers are built.
	sources, headers = 20, 20
)

// fileProgram is a program that reads many small files.
type fileProgram struct {
	name string
	// tools are the programs that it needs of this machine.
	tools []string
	// tree writes its files below a folder.
	tree func(dir string) error
	// command runs it with the files below a folder; what it writes goes to the folder out.
	command func(dir, out string) []string
	// lines are how many it writes, which shows that it has read everything; 0 for one that fails otherwise.
	lines int
}

// filePrograms are those whose name contains only.
func filePrograms(only string) (ps []fileProgram) {
	for _, p := range []fileProgram{
		{name: "files: python, 1000 modules", tools: []string{"python3"}, tree: pythonTree, command: runPython, lines: 1},
		{name: "files: node, 1000 modules", tools: []string{"node"}, tree: nodeTree, command: runNode, lines: 1},
		{name: "files: java, 1000 classes", tools: []string{"java", "javac"}, tree: javaTree, command: runJava, lines: 1},
		{name: "files: find, 1000 files in 100 directories", tools: []string{"find"}, tree: findTree, command: runFind, lines: treeDirs * treeFiles},
		{name: "files: make, 20 sources of C", tools: []string{"make", "gcc"}, tree: makeTree, command: runMake},
	} {
		if strings.Contains(p.name, only) {
			ps = append(ps, p)
		}
	}
	return ps
}

// missing is the first of the tools that this machine lacks, or "".
func (p fileProgram) missing() string {
	for _, tool := range p.tools {
		if _, err := exec.LookPath(tool); err != nil {
			return tool
		}
	}
	return ""
}

// runPython goes without files of bytecode: they could not be written in the target.
func runPython(dir, _ string) []string {
	return []string{python(), "-B", filepath.Join(dir, "python", "main.py")}
}

func runNode(dir, _ string) []string { return []string{"node", filepath.Join(dir, "node", "main.js")} }

func runJava(dir, _ string) []string {
	return []string{"java", "-cp", filepath.Join(dir, "java"), "Main"}
}

// runFind asks for sizes, and so for each file.
func runFind(dir, _ string) []string {
	return []string{"find", filepath.Join(dir, "tree"), "-type", "f", "-size", "+0"}
}

func runMake(dir, out string) []string {
	dir = filepath.Join(dir, "c")
	return []string{"make", "-s", "-B", "-f", filepath.Join(dir, "Makefile"), "SRC=" + dir, "OUT=" + out}
}

// python is the interpreter itself. What is found as python3 may be a script that looks for one, and takes longer than what is measured.
func python() string {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		return "python3"
	}
	return strings.TrimSpace(string(out))
}

// write writes the files of a folder that it makes.
func write(dir string, files map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func pythonTree(dir string) error {
	files := map[string]string{"main.py": fmt.Sprintf("import importlib\nprint(sum(importlib.import_module('m%%04d' %% i).value() for i in range(%d)))\n", modules)}
	for i := range modules {
		files[fmt.Sprintf("m%04d.py", i)] = fmt.Sprintf("def value():\n    return %d\n", i)
	}
	return write(filepath.Join(dir, "python"), files)
}

func nodeTree(dir string) error {
	files := map[string]string{"main.js": fmt.Sprintf("let sum = 0\nfor (let i = 0; i < %d; i++) sum += require('./m' + String(i).padStart(4, '0') + '.js').value()\nconsole.log(sum)\n", modules)}
	for i := range modules {
		files[fmt.Sprintf("m%04d.js", i)] = fmt.Sprintf("exports.value = () => %d\n", i)
	}
	return write(filepath.Join(dir, "node"), files)
}

// javaTree compiles classes, each to a file of its own.
func javaTree(dir string) error {
	var text strings.Builder
	fmt.Fprintf(&text, `class Main {
  public static void main(String[] args) throws Exception {
    int sum = 0;
    for (int i = 0; i < %d; i++) sum += ((Number) Class.forName("M" + (1000 + i)).getDeclaredConstructor().newInstance()).intValue();
    System.out.println(sum);
  }
}
abstract class Value extends Number {
  public long longValue() { return intValue(); }
  public float floatValue() { return intValue(); }
  public double doubleValue() { return intValue(); }
}
`, modules)
	for i := range modules {
		fmt.Fprintf(&text, "class M%d extends Value { public int intValue() { return %d; } }\n", 1000+i, i)
	}
	source, err := os.MkdirTemp("", "mirrord-bench-java-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(source)
	if err := write(source, map[string]string{"Main.java": text.String()}); err != nil {
		return err
	}
	dir = filepath.Join(dir, "java")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	out, err := exec.Command("javac", "-nowarn", "-d", dir, filepath.Join(source, "Main.java")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("javac: %w\n%s", err, out)
	}
	return nil
}

func findTree(dir string) error {
	for d := range treeDirs {
		files := map[string]string{}
		for f := range treeFiles {
			files[fmt.Sprintf("f%02d.txt", f)] = "a line\n"
		}
		// Ten directories of ten: what is looked through is seldom flat.
		if err := write(filepath.Join(dir, "tree", fmt.Sprintf("a%d", d/10), fmt.Sprintf("b%d", d%10)), files); err != nil {
			return err
		}
	}
	return nil
}

func makeTree(dir string) error {
	files := map[string]string{"Makefile": `
OBJECTS := $(patsubst $(SRC)/%.c,$(OUT)/%.o,$(sort $(wildcard $(SRC)/*.c)))
$(OUT)/program: $(OBJECTS)
	gcc -o $@ $^
$(OUT)/%.o: $(SRC)/%.c
	gcc -I$(SRC) -c -o $@ $<
`}
	var all strings.Builder
	all.WriteString("#include <stdio.h>\n")
	for i := range headers {
		files[fmt.Sprintf("h%02d.h", i)] = fmt.Sprintf("int h%02d(int);\n", i)
		fmt.Fprintf(&all, "#include \"h%02d.h\"\n", i)
	}
	files["all.h"] = all.String()
	for i := range sources {
		files[fmt.Sprintf("s%02d.c", i)] = fmt.Sprintf("#include \"all.h\"\nint s%02d(int n) { return n + %d; }\n", i, i)
	}
	files["main.c"] = "#include \"all.h\"\nint main(void) { return puts(\"built\") < 0; }\n"
	return write(filepath.Join(dir, "c"), files)
}
