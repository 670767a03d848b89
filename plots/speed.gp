# Tokens per second, a bar per case, cases of a prompt together.
# speed.dat: y, tok/s, least, most, colour, graph, estimated, label.
if (BOTH_MODES) { eval entry(BOX, 'eager', FAINT); eval entry(BOX, 'graph (lighter)', tint(FAINT, 0.5)) }
if (ESTIMATED) { eval entry(HOLLOW, '~ estimated from some of the chunks (hollow)', FAINT) }
load PLOTS.'/rows.gp'

set xlabel 'prompt tokens per second up to the first token; median of the repeats, whisker from least to most'
set xrange [0 : MOST * 1.13]
STEP = step10(MOST, 6)
set xtics ()
do for [i = 0 : 20] { set xtics add (count(i * STEP) i * STEP) }
set lmargin at screen LEFT / BASE
set rmargin at screen 0.975

plot 'rows.dat' using (NaN):1:ytic(2), \
     'headers.dat' using (0):1:2 with labels left boxed offset 0.6, 0 textcolor rgb FAINT, \
     'speed.dat' using ($7 > 0 ? NaN : $2):1:(0):2:($1 - half):($1 + half):(tint(color($5), $6 > 0 ? 0.5 : 0)) \
         with boxxyerror fs solid 1 noborder lc rgb variable, \
     '' using ($7 > 0 ? $2 : NaN):1:(0):2:($1 - half):($1 + half):(color($5)) with boxxyerror fs empty lw 1.5 \
         lc rgb variable, \
     '' using ($4 > $3 ? $2 : NaN):1:3:4 with xerrorbars pt -1 ps 0 lw 1.2 lc rgb INK, \
     '' using 4:1:8 with labels left offset 0.7, 0 textcolor rgb INK
