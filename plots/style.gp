# The one look of all pictures: terminal, fonts, colours, grid, and how numbers are written. Loaded after settings.gp
# (TITLE, SUBTITLE, NOTE and the picture's own variables) and format.gp (FORMAT), before the picture's script.

BASE = 800     # width in pixels, as a README shows it; PNG has half as many again each way, to stay sharp
SCALE = FORMAT eq 'png' ? 1.5 : 1

# Okabe and Ito's palette: told apart with any colour vision. Its yellow is too faint on white; grey takes its place.
array PALETTE[7] = [0x0072B2, 0xE69F00, 0x009E73, 0xD55E00, 0x56B4E9, 0xCC79A7, 0x666666]
color(i) = PALETTE[int(i) % 7 + 1]
# Nearer to white by the share s.
part(c, shift) = (int(c) >> shift) & 255
mixed(v, s) = int(v + (255 - v) * s)
tint(c, s) = (mixed(part(c, 16), s) << 16) + (mixed(part(c, 8), s) << 8) + mixed(part(c, 0), s)
INK = 0x222222
FAINT = 0x777777
# Points of the i-th colour, in eager and in graph mode: what comes after seven colours has other shapes. One less: open.
array SHAPES[6] = [7, 9, 5, 11, 13, 15]
shape(i, graph) = SHAPES[2 * ((int(i) / 7) % 3) + int(graph) + 1]
# Words within a picture stand clear of the grid.
set style textbox opaque noborder fillcolor rgb 'white' margins 0.3, 0.3

set encoding utf8
set style line 100 lc rgb 0xDDDDDD lw 1 dt solid # grid
set grid xtics ytics back ls 100
set border 3 lc rgb FAINT lw 1
set tics nomirror scale 0.5 textcolor rgb INK
unset key
set xlabel textcolor rgb INK
set ylabel textcolor rgb INK

# ---- the page
# A script adds the entries of its legend, then opens the page, whose height is that of the picture and of the legend:
#     eval entry(BOX, 'eager', FAINT) ...; HEIGHT = 400 + LEGEND_HEIGHT; eval open_page
# Title, subtitle and note stand at the edges; the legend below the axis, whose place ends FOOT pixels above the edge.
SMALL = FORMAT eq 'png' ? ',8.5' : ',10.5'
LARGE = FORMAT eq 'png' ? ',12' : ',15'
LETTER = 6.9     # mean width of a letter in pixels
LINE = 17.0      # height of a row of text
AXIS = FORMAT eq 'png' ? 50 : 58 # room for the numbers and the name of an x axis
HEAD = 62.0      # room for the title

BOX = 1; HOLLOW = 2; STROKE = 3; DASHES = 4; POINT = 5 # a point of type p is POINT + p
LEGEND_MOST = 60
array ENTRY_KIND[LEGEND_MOST]; array ENTRY_TEXT[LEGEND_MOST]; array ENTRY_COLOR[LEGEND_MOST]
array ENTRY_X[LEGEND_MOST]; array ENTRY_ROW[LEGEND_MOST]
ENTRIES = 0; LEGEND_X = 20; LEGEND_ROW = 0
LEGEND_HEIGHT = LINE
# Entries stand in columns of `LEGEND_STEP` pixels where it is set, else one behind the other.
LEGEND_STEP = 0
width(text) = LEGEND_STEP > 0 ? LEGEND_STEP : 46 + LETTER * strlen(text)
entry(kind, text, c) = sprintf("ENTRY = '%s'; if (ENTRIES < LEGEND_MOST) { ENTRIES = ENTRIES + 1;", text).\
    sprintf(" ENTRY_KIND[ENTRIES] = %d; ENTRY_COLOR[ENTRIES] = %d; ENTRY_TEXT[ENTRIES] = ENTRY;", kind, c).\
    " if (LEGEND_X + width(ENTRY) > BASE) { LEGEND_X = 20; LEGEND_ROW = LEGEND_ROW + 1 };".\
    " ENTRY_X[ENTRIES] = LEGEND_X; ENTRY_ROW[ENTRIES] = LEGEND_ROW; LEGEND_X = LEGEND_X + width(ENTRY);".\
    " LEGEND_HEIGHT = LINE * (LEGEND_ROW + 1) }"

x_of(i) = ENTRY_X[i] / (1.0 * BASE)
y_of(i) = (FOOT - AXIS - LINE * (ENTRY_ROW[i] + 0.5)) / HEIGHT
is_stroke(i) = ENTRY_KIND[i] == STROKE || ENTRY_KIND[i] == DASHES
set_entry = "set label 200 + i ENTRY_TEXT[i] at screen x_of(i) + 27.0 / BASE, screen y_of(i) left textcolor rgb INK;".\
    " if (ENTRY_KIND[i] == BOX) { set object 200 + i rectangle from screen x_of(i), screen y_of(i) - 4.5 / HEIGHT".\
    " to screen x_of(i) + 20.0 / BASE, screen y_of(i) + 4.5 / HEIGHT fs solid 1 noborder fc rgb ENTRY_COLOR[i] };".\
    " if (ENTRY_KIND[i] == HOLLOW) { set object 200 + i rectangle from screen x_of(i), screen y_of(i) - 4.5 / HEIGHT".\
    " to screen x_of(i) + 20.0 / BASE, screen y_of(i) + 4.5 / HEIGHT fs empty border rgb ENTRY_COLOR[i] };".\
    " if (is_stroke(i)) { set arrow 200 + i from screen x_of(i), screen y_of(i)".\
    " to screen x_of(i) + 22.0 / BASE, screen y_of(i) nohead lw 2 dt ENTRY_KIND[i] - 2 lc rgb ENTRY_COLOR[i] };".\
    " if (ENTRY_KIND[i] > POINT) { set label 300 + i '' at screen x_of(i) + 11.0 / BASE, screen y_of(i)".\
    " point pt ENTRY_KIND[i] - POINT ps 0.9 lw 1.5 lc rgb ENTRY_COLOR[i] }"

open_page = "FOOT = AXIS + LEGEND_HEIGHT + (NOTE eq '' ? 8 : 22);".\
    " HEIGHT = HEIGHT + HEAD + FOOT;".\
    " if (FORMAT eq 'png') { set terminal pngcairo noenhanced size BASE*SCALE, HEIGHT*SCALE fontscale SCALE".\
    " linewidth SCALE pointscale SCALE font 'DejaVu Sans,9.5' background rgb 'white' } else {".\
    " set terminal svg noenhanced size BASE, HEIGHT font 'DejaVu Sans,Verdana,sans-serif,12' background rgb 'white' };".\
    " set output 'picture.'.FORMAT;".\
    " set label 101 TITLE at screen 0.012, screen 1 - 18.0 / HEIGHT left font LARGE textcolor rgb INK;".\
    " set label 102 SUBTITLE at screen 0.012, screen 1 - 38.0 / HEIGHT left textcolor rgb FAINT;".\
    " set label 103 NOTE at screen 0.988, screen 11.0 / HEIGHT right font SMALL textcolor rgb FAINT;".\
    " set tmargin at screen 1 - HEAD / HEIGHT; set bmargin at screen FOOT * 1.0 / HEIGHT;".\
    " do for [i = 1 : ENTRIES] { eval set_entry }"
# Before the second plot of a multiplot: what stands once on the page.
page_is_labelled = "do for [i = 1 : ENTRIES] { unset label 200 + i; unset label 300 + i; unset object 200 + i;".\
    " unset arrow 200 + i }; unset label 101; unset label 102; unset label 103"

# ---- numbers
# 1024 -> 1k, 1048576 -> 1M
tokens(n) = n >= 1048576 ? sprintf('%gM', n / 1048576.0) : n >= 1024 ? sprintf('%gk', n / 1024.0) : sprintf('%g', n)
seconds(s) = s < 9.99e-7 ? sprintf('%g ns', s * 1e9) : s < 9.99e-4 ? sprintf('%g us', s * 1e6) : \
             s < 0.999 ? sprintf('%g ms', s * 1e3) : s < 999 ? sprintf('%g s', s) : sprintf('%g,000 s', s / 1e3)
bytes(b) = b == 0 ? '0' : b < 1024 ? sprintf('%g B', b) : b < 1024**2 ? sprintf('%g KiB', b / 1024.0) : \
           b < 1024**3 ? sprintf('%g MiB', b / 1024.0**2) : sprintf('%g GiB', b / 1024.0**3)
count(n) = n < 1e3 ? sprintf('%g', n) : sprintf('%gk', n / 1e3)

# A step of 1, 2 or 5 times a power of ten that divides `most` in about `parts`; for bytes powers of two.
step_exponent(x) = 10 ** floor(log10(x))
step_round(x) = x < 1.5 ? 1 : x < 3.5 ? 2 : x < 7.5 ? 5 : 10
step10(most, parts) = step_exponent(most / parts) * step_round(most / parts / step_exponent(most / parts))
step2(most, parts) = 2.0 ** floor(log(most / parts) / log(2) + 0.5)
