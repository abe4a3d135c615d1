package pattern

// Glob reports whether the glob matches the whole of s: "*" stands for any characters or
// none, "?" for exactly one; all others stand for themselves, upper and lower case apart.
// Every text is a glob. It takes time of the product of the lengths at worst.
func Glob(glob, s string) bool {
	pattern, text := []rune(glob), []rune(s)
	// After a mismatch, the last star takes one more character: star is where it stands in
	// the pattern, taken how far it has got in the text.
	p, t, star, taken := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, taken = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			taken++
			p, t = star+1, taken
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
