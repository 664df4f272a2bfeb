package term

import (
	"cmp"
	"slices"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
)

// Graph knows of every derivation of a build what it is built for.
type Graph struct {
	paths []nix.Path
	// sorted are the indexes of the derivations, in the order of their paths.
	sorted []int32
	// parent is what a path is built for, on the shortest way to a root; -1 for
	// a root.
	parent []int32
}

// NewGraph returns the graph of the derivations of in; roots are asked for.
func NewGraph(in *client.Inputs, roots []nix.Path) *Graph {
	n := len(in.Paths)
	g := &Graph{paths: in.Paths, parent: make([]int32, n)}
	for i, p := range in.Paths {
		if p.IsDrv() {
			g.sorted = append(g.sorted, int32(i))
		}
	}
	slices.SortFunc(g.sorted, func(a, b int32) int { return cmp.Compare(in.Paths[a], in.Paths[b]) })
	const far = 1 << 30
	depth := make([]int32, n)
	for i := range depth {
		depth[i], g.parent[i] = far, -1
	}
	for _, r := range roots {
		if i, ok := g.index(r); ok {
			depth[i] = 0
		}
	}
	// References come before referrers, so everything that leads to a path has
	// been seen when its own references are.
	for i := n - 1; i >= 0; i-- {
		if depth[i] == far {
			continue
		}
		for _, ref := range in.Wire[i].References {
			if ref != i && depth[i]+1 < depth[ref] {
				depth[ref], g.parent[ref] = depth[i]+1, int32(i)
			}
		}
	}
	return g
}

func (g *Graph) index(drv nix.Path) (int32, bool) {
	if g == nil {
		return 0, false
	}
	i, ok := slices.BinarySearchFunc(g.sorted, drv, func(i int32, p nix.Path) int { return cmp.Compare(g.paths[i], p) })
	if !ok {
		return 0, false
	}
	return g.sorted[i], true
}

// way returns what leads from a root to drv, which is last; only drv itself when
// the graph does not know it.
func (g *Graph) way(drv nix.Path) []nix.Path {
	i, ok := g.index(drv)
	if !ok {
		return []nix.Path{drv}
	}
	var way []nix.Path
	for ; i >= 0; i = g.parent[i] {
		way = append(way, g.paths[i])
	}
	slices.Reverse(way)
	return way
}

// node is a derivation in the tree that is shown.
type node struct {
	drv      nix.Path
	job      *job // nil: it waits for those below
	children []*node
}

// tree returns the jobs below what they are built for, each root a tree of its
// own. What has nothing to tell and leads to one thing only is left out, except
// for roots.
func (g *Graph) tree(jobs []*job) []*node {
	top := &node{}
	for _, j := range jobs {
		at := top
		for _, drv := range g.way(j.drv) {
			i := slices.IndexFunc(at.children, func(n *node) bool { return n.drv == drv })
			if i < 0 {
				i = len(at.children)
				at.children = append(at.children, &node{drv: drv})
			}
			at = at.children[i]
		}
		if at.job == nil {
			at.job = j
		}
	}
	for _, root := range top.children {
		root.shorten()
	}
	return top.children
}

func (n *node) shorten() {
	for i := range n.children {
		for n.children[i].job == nil && len(n.children[i].children) == 1 {
			n.children[i] = n.children[i].children[0]
		}
		n.children[i].shorten()
	}
}

// size is the number of nodes.
func size(nodes []*node) int {
	n := len(nodes)
	for _, c := range nodes {
		n += size(c.children)
	}
	return n
}
