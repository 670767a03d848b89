# Memory of a device in use: at the peak of each traced chunk, and op by op through the fullest of them, stacked by
# category. depth.dat: from, to (tokens), from, to (bytes), category. chunk.dat: from, to (op number), from, to (bytes),
# category. layers.dat: op number, layer.
name(i) = value(sprintf('CATEGORY_%d', i))
do for [k = 0 : CATEGORIES - 1] { if (name(k) ne '') { eval entry(BOX, name(k), color(k)) } }
eval entry(DASHES, 'reserved', INK)
HEIGHT = 280
eval open_page
set multiplot
set yrange [0 : RESERVED * 1.08]
BYTES = step2(RESERVED, 5)
set ytics ()
do for [i = 0 : 20] { if (i * BYTES <= RESERVED * 1.08) { set ytics add (bytes(i * BYTES) i * BYTES) } }
set grid noxtics ytics back ls 100

set lmargin at screen 0.115
set rmargin at screen 0.44
set ylabel 'in use'
set xlabel 'depth in the prompt (tokens), at each chunk''s peak'
STEP = step2(TOKENS, 3)
set xrange [0 : TOKENS * 1.01]
set xtics ()
do for [i = 0 : 20] { if (i * STEP <= TOKENS * 1.01) { set xtics add (tokens(i * STEP) i * STEP) } }
set arrow 1 from graph 0, first RESERVED to graph 1, first RESERVED nohead lw 2 dt 2 lc rgb INK front
plot 'depth.dat' using 1:3:1:2:3:4:(color($5)) with boxxyerror fs solid 1 noborder lc rgb variable

eval page_is_labelled
set lmargin at screen 0.53
set rmargin at screen 0.98
unset ylabel
set xlabel sprintf('ops of chunk %d in order, and where its layers begin', CHUNK)
set xrange [0 : OPS]
set xtics ()
plot 'chunk.dat' using 1:3:1:2:3:4:(color($5)) with boxxyerror fs solid 1 border lw 0.4 lc rgb variable, \
     'layers.dat' using 1:(NaN):xtic(2) notitle
unset multiplot
