package config

import (
	"slices"
	"strings"
)

// nearOption gives the option that somebody who typed name probably meant, "" when
// there is none. Numbers stay as typed.
func nearOption(typed string) string {
	name := strings.ToLower(typed)
	prefix := ""
	for _, p := range []string{"no-", "reset-"} {
		if rest, is := strings.CutPrefix(name, p); is {
			prefix, name = p, rest
		}
	}
	index := 1
	head, rest, dash := strings.Cut(name, "-")
	if word := strings.TrimRight(head, "0123456789"); dash && word != head && word != "" {
		index = 0
		for _, d := range head[len(word):] {
			index = min(index*10+int(d-'0'), maxIndex)
		}
		index = max(index, 1)
		name = word + "-" + rest
	}
	candidates := make([]string, 0, optionTotal)
	for i := range table {
		if !table[i].internal {
			candidates = append(candidates, table[i].name)
		}
	}
	best := nearest(name, candidates)
	if best == "" {
		return ""
	}
	o, _ := exactly(best)
	return prefix + o.at(index)
}

// isSecret says whether a name is that of a secret option, or looks like one.
func isSecret(name string) bool {
	if low := strings.ToLower(name); strings.Contains(low, "pass") || strings.Contains(low, "secret") {
		return true
	}
	f, err := lookup(name, false, true)
	if err != nil || !f.ok {
		f, err = lookup(nearOption(name), false, true)
	}
	return err == nil && f.ok && table[f.option].secret
}

// withoutSecret gives a line or an argument for a message: of one that begins with the name of a
// secret, or something like it, the name alone. What is between name and value does not matter.
func withoutSecret(text string) string {
	begin := strings.TrimLeft(text, "-")
	name := begin
	if end := strings.IndexAny(begin, "=: \t"); end >= 0 {
		name = begin[:end]
	}
	if name == begin || !isSecret(name) {
		return text
	}
	return text[:len(text)-len(begin)] + name + "=" + redacted
}

// namesSecret says whether the name of a secret option is anywhere in a text.
func namesSecret(text string) bool {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
	return slices.ContainsFunc(words, isSecret)
}

func nearCommand(typed string) string {
	candidates := make([]string, 0, commandTotal)
	for i := range commands {
		if !commands[i].internal {
			candidates = append(candidates, commands[i].name)
		}
	}
	return nearest(strings.ToLower(typed), candidates)
}

// nearest gives the candidate that few slips of the finger turn into typed: one slip
// for each four letters, at least one.
func nearest(typed string, candidates []string) string {
	if len(typed) < 3 || len(typed) > maxNameLength {
		return ""
	}
	best, slips := "", len(typed)/4+1
	for _, c := range candidates {
		if d := distance(typed, c); d < slips {
			best, slips = c, d
		}
	}
	if best == "" { // the words in another order, or one left out
		for _, c := range candidates {
			if sameWords(typed, c) {
				return c
			}
		}
	}
	return best
}

func sameWords(a, b string) bool {
	words := strings.Split(a, "-")
	of := strings.Split(b, "-")
	if len(words) < 2 || len(words) != len(of) {
		return false
	}
	count := make(map[string]int, len(words))
	for i := range words {
		count[words[i]]++
		count[of[i]]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// distance counts the letters put in, left out, changed or swapped between a and b.
func distance(a, b string) int {
	before := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	next := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
